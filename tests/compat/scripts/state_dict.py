"""An adapter's tensors out of one model and into another, as scripts that write their own files do."""

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("llama")
batch = tokenizer(["the cat sat"], return_tensors="pt")
config = {"r": 4, "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj"], "task_type": "CAUSAL_LM"}
model = get_peft_model(AutoModelForCausalLM.from_pretrained("llama"), LoraConfig(**config))
for name, parameter in model.named_parameters():
    if "lora_" in name:
        torch.nn.init.constant_(parameter, 0.04)
old_state_dict = model.state_dict
model.state_dict = (lambda self, *_, **__: get_peft_model_state_dict(self, old_state_dict())).__get__(
    model, type(model)
)
save_file(model.state_dict(), "tensors.safetensors")
with torch.no_grad():
    expected = model(**batch).logits

fresh = get_peft_model(AutoModelForCausalLM.from_pretrained("llama"), LoraConfig(**config))
tensors = load_file("tensors.safetensors")
result = set_peft_model_state_dict(fresh, tensors)
with torch.no_grad():
    loaded = fresh(**batch).logits
same = {
    "names": sorted(tensors),
    "shapes": [list(tensors[name].shape) for name in sorted(tensors)],
    "expected": expected,
    "loaded": loaded,
    "unexpected": list(result.unexpected_keys),
}
