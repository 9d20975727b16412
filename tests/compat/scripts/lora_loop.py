"""LoRA in a training loop of one's own, from a start that is told number by number."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("llama")
model = AutoModelForCausalLM.from_pretrained("llama")
model = get_peft_model(model, LoraConfig(r=4, task_type="CAUSAL_LM"))  # the default modules of the architecture

for name, parameter in model.named_parameters():
    if parameter.requires_grad and "lora_A" in name:
        torch.nn.init.constant_(parameter, 0.1)

batch = tokenizer(["the cat sat", "a dog ran far away"], return_tensors="pt", padding=True, padding_side="right")
batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)

model.train()
losses = []
for _ in range(8):
    outputs = model(**batch)
    loss = outputs.loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())

model.eval()
with torch.no_grad():
    logits = model(**batch).logits
same = {
    "losses": losses,
    "logits": logits,
    "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
}
