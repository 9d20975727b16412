"""The base's own answers from a model with an adapter, as preference training takes its reference from."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("llama")
batch = tokenizer(["the cat sat"], return_tensors="pt")
base = AutoModelForCausalLM.from_pretrained("llama")
with torch.no_grad():
    original = base(**batch).logits
model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "down_proj"]))
for name, parameter in model.named_parameters():
    if "lora_" in name:
        torch.nn.init.constant_(parameter, 0.05)
with torch.no_grad():
    adapted = model(**batch).logits
    with model.disable_adapter():
        reference = model(**batch).logits
    adapted_again = model(**batch).logits
bare = model.unload()
with torch.no_grad():
    unloaded = bare(**batch).logits
same = {"adapted": adapted, "reference": reference, "again": adapted_again, "unloaded": unloaded}
assert torch.equal(reference, original)
assert torch.equal(unloaded, original)
assert torch.equal(adapted, adapted_again)
assert not torch.allclose(adapted, reference)
