"""Prefix tuning of a causal model, from given keys and values, and generation with it."""

import torch
from peft import PrefixTuningConfig, TaskType, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("llama")
model = AutoModelForCausalLM.from_pretrained("llama")
model = get_peft_model(model, PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=6))
shape = get_peft_model_state_dict(model)["prompt_embeddings"].shape
start = torch.linspace(-1, 1, shape.numel()).reshape(shape)
set_peft_model_state_dict(model, {"prompt_embeddings": start})

batch = tokenizer(["the cat sat", "a dog ran"], return_tensors="pt", padding=True, padding_side="right")
labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-1)
losses = []
for _ in range(8):
    loss = model(**batch, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())

model.eval()
with torch.no_grad():
    text = model.generate(**tokenizer("the", return_tensors="pt"), max_new_tokens=6, do_sample=False)
    logits = model(**batch).logits
same = {"losses": losses, "text": text, "logits": logits, "shape": list(shape)}
