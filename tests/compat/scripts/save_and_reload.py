"""Saving an adapter, reading its config to find the base, and loading it for inference and for more training."""

import os

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("llama")
batch = tokenizer(["the cat sat"], return_tensors="pt")
model = get_peft_model(
    AutoModelForCausalLM.from_pretrained("llama"),
    LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=16, target_modules="all-linear", use_rslora=True),
)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.fill_(0.05)
model.eval()
with torch.no_grad():
    before = model(**batch).logits
model.save_pretrained("adapter")
files = {"adapter_config.json", "adapter_model.safetensors", "README.md"} <= set(os.listdir("adapter"))

config = PeftConfig.from_pretrained("adapter")
base = AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path)
model = PeftModel.from_pretrained(base, "adapter")
with torch.no_grad():
    after = model(**batch).logits
frozen = not any(p.requires_grad for p in model.parameters())

base = AutoModelForCausalLM.from_pretrained(config.base_model_name_or_path)
model = PeftModel.from_pretrained(base, "adapter", is_trainable=True)
trainable = model.get_nb_trainable_parameters()[0]
same = {
    "before": before,
    "after": after,
    "files": files,
    "frozen": frozen,
    "training": model.training,
    "trainable": trainable,
    "config": [config.peft_type, config.task_type, config.r, config.lora_alpha, config.use_rslora],
}
assert torch.allclose(before, after, atol=1e-5)
