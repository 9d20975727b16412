"""Several adapters on one base: added, loaded, chosen, mixed in one batch, deleted."""

import os

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("llama")
batch = tokenizer(["the cat sat"] * 3, return_tensors="pt")


def fill(model, adapter, value):
    with torch.no_grad():
        model.set_adapter(adapter)
        for name, parameter in model.named_parameters():
            if "lora_" in name and parameter.requires_grad:
                parameter.fill_(value)


model = get_peft_model(
    AutoModelForCausalLM.from_pretrained("llama"),
    LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj", "v_proj"]),
    adapter_name="french",
)
model.add_adapter("german", LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["up_proj"]))
started_with = model.active_adapter
fill(model, "french", 0.05)
fill(model, "german", 0.07)
model.save_pretrained("adapters")
folders = sorted(name for name in os.listdir("adapters") if os.path.isdir(f"adapters/{name}"))

base = AutoModelForCausalLM.from_pretrained("llama")
model = PeftModel.from_pretrained(base, "adapters/french", adapter_name="french")
model.load_adapter("adapters/german", adapter_name="german")
answers = {}
with torch.no_grad():
    for name in ("french", "german"):
        model.set_adapter(name)
        answers[name] = model(**batch).logits
    mixed = model(**batch, adapter_names=["french", "__base__", "german"]).logits
    with model.disable_adapter():
        bare = model(**batch).logits
model.delete_adapter("german")
same = {
    **answers,
    "mixed": mixed,
    "folders": folders,
    "started with": started_with,
    "left": sorted(model.peft_config),
    "active": model.active_adapter,
}
assert torch.allclose(mixed[0], answers["french"][0], atol=1e-5)
assert torch.allclose(mixed[1], bare[1], atol=1e-5)
assert torch.allclose(mixed[2], answers["german"][2], atol=1e-5)
