"""IA3 on an encoder-decoder, merged at the end."""

import torch
from peft import IA3Config, TaskType, get_peft_model
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("t5")
config = IA3Config(task_type=TaskType.SEQ_2_SEQ_LM, target_modules=["k", "v", "wo"], feedforward_modules=["wo"])
model = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained("t5"), config)
batch = tokenizer(["say cat", "say dog"], return_tensors="pt")
labels = tokenizer(["cat", "dog"], return_tensors="pt")["input_ids"]
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=5e-2)
losses = []
for _ in range(10):
    loss = model(**batch, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())
model.eval()
with torch.no_grad():
    live = model(**batch, labels=labels).logits
    merged = model.merge_and_unload()(**batch, labels=labels).logits
same = {"losses": losses, "live": live, "merged": merged}
