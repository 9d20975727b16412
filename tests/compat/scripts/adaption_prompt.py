"""LLaMA-Adapter, from given prompts and gates."""

import torch
from peft import AdaptionPromptConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("llama")
config = AdaptionPromptConfig(adapter_len=4, adapter_layers=2, task_type="CAUSAL_LM")
model = get_peft_model(AutoModelForCausalLM.from_pretrained("llama"), config)
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.fill_(0.3)
batch = tokenizer(["the cat sat"], return_tensors="pt")
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=3e-2)
losses = []
for _ in range(8):
    loss = model(**batch, labels=batch["input_ids"]).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
model.eval()
with torch.no_grad():
    logits = model(**batch).logits
model.save_pretrained("adaption")
same = {"losses": losses, "logits": logits, "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad)}
