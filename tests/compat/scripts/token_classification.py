"""Prefix tuning of an encoder that labels tokens."""

import torch
from peft import PrefixTuningConfig, get_peft_model
from transformers import AutoModelForTokenClassification, AutoTokenizer, set_seed

set_seed(0)
tokenizer = AutoTokenizer.from_pretrained("bert")
model = AutoModelForTokenClassification.from_pretrained("bert", num_labels=2)
model = get_peft_model(model, PrefixTuningConfig(task_type="TOKEN_CLS", num_virtual_tokens=5))
batch = tokenizer(["ann met bob", "we saw rome"], return_tensors="pt")
labels = batch["input_ids"] % 2
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-2)
history = []
for _ in range(40):
    model.train()
    loss = model(**batch, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    history.append(loss.item())
model.eval()
with torch.no_grad():
    shape = list(model(**batch).logits.shape)
same = {"shape": shape, "learnt": history[-1] < 0.6 * history[0]}
