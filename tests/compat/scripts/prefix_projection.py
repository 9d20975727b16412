"""Prefix tuning with the projection, in the Trainer, with a checkpoint it goes on from."""

import torch
from peft import PeftModel, PrefixTuningConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

tokenizer = AutoTokenizer.from_pretrained("llama")
rows = [tokenizer(text) for text in ["the cat sat on", "a dog ran away", "the sun is hot", "we read a book"] * 4]
rows = [{**row, "labels": row["input_ids"]} for row in rows]
config = {"num_virtual_tokens": 4, "prefix_projection": True, "encoder_hidden_size": 16}
set_seed(0)
model = get_peft_model(
    AutoModelForCausalLM.from_pretrained("llama"), PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, **config)
)
arguments = TrainingArguments(
    output_dir="prefix", per_device_train_batch_size=4, num_train_epochs=6, learning_rate=2e-2, logging_steps=1,
    save_strategy="steps", save_steps=12, report_to=[], use_cpu=True, disable_tqdm=True, warmup_steps=2,
)  # fmt: skip
trainer = Trainer(model=model, args=arguments, train_dataset=rows)
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
trainer.save_model("prefix/final")

model.eval()
batch = {key: torch.tensor([row[key] for row in rows[:1]]) for key in rows[0]}
with torch.no_grad():
    trained = model(**batch).loss.item()
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("llama"), "prefix/final")
with torch.no_grad():
    reloaded = model(**batch).loss.item()
same = {"steps": trainer.state.global_step}
assert abs(trained - reloaded) < 1e-4
