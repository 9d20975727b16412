"""Prefix tuning of an encoder-decoder: trained, generated with, saved and loaded."""

import torch
from peft import PeftConfig, PeftModel, PrefixTuningConfig, TaskType, get_peft_model
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, set_seed

set_seed(0)
tokenizer = AutoTokenizer.from_pretrained("t5")
model = AutoModelForSeq2SeqLM.from_pretrained("t5")
config = PrefixTuningConfig(task_type=TaskType.SEQ_2_SEQ_LM, inference_mode=False, num_virtual_tokens=8)
model = get_peft_model(model, config)
model.print_trainable_parameters()
batch = tokenizer(["say cat", "say dog"], return_tensors="pt")
labels = tokenizer(["cat", "dog"], return_tensors="pt")["input_ids"]
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-2)
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
    trained = model(**batch, labels=labels).loss.item()
    answer = model.generate(input_ids=batch["input_ids"], max_new_tokens=4)
model.save_pretrained("t5_prefix")
config = PeftConfig.from_pretrained("t5_prefix")
base = AutoModelForSeq2SeqLM.from_pretrained(config.base_model_name_or_path)
model = PeftModel.from_pretrained(base, "t5_prefix")
with torch.no_grad():
    reloaded = model(**batch, labels=labels).loss.item()
same = {
    "rows": len(answer),
    "learnt": history[-1] < 0.75 * history[0],
    "config": [config.peft_type, config.task_type, config.num_virtual_tokens, config.base_model_name_or_path],
}
assert abs(trained - reloaded) < 1e-4
