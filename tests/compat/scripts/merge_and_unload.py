"""Merging an adapter into its base, and saving the result as a plain model."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("gpt2")
batch = tokenizer(["the cat sat"], return_tensors="pt")
config = LoraConfig(r=4, lora_alpha=8, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True, task_type="CAUSAL_LM")
model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), config)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.fill_(0.03)
model.eval()
with torch.no_grad():
    adapted = model(**batch).logits

model = model.merge_and_unload(safe_merge=True)
with torch.no_grad():
    merged = model(**batch).logits
model.save_pretrained("merged")
with torch.no_grad():
    again = AutoModelForCausalLM.from_pretrained("merged")(**batch).logits
same = {"adapted": adapted, "merged": merged, "again": again, "class": type(model).__name__}
assert torch.allclose(adapted, merged, atol=1e-4)
assert torch.equal(merged, again)
