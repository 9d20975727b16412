"""LoRA with the Trainer: checkpoints, the best one loaded at the end, and a resumed run."""

import os

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

tokenizer = AutoTokenizer.from_pretrained("llama")
rows = [tokenizer(text) for text in ["the cat sat on", "a dog ran to a", "the sun is hot", "we read a book"] * 2]
rows = [{**row, "labels": row["input_ids"]} for row in rows]


def build():
    set_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained("llama"), LoraConfig(task_type="CAUSAL_LM", r=4))
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            torch.nn.init.constant_(parameter, 0.1)
    arguments = TrainingArguments(
        output_dir="run", per_device_train_batch_size=2, num_train_epochs=3, learning_rate=1e-2, logging_steps=1,
        eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True, report_to=[], use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    return Trainer(model=model, args=arguments, train_dataset=rows, eval_dataset=rows[:4], data_collator=collate)


def collate(batch):
    columns = {key: [row[key] for row in batch] for key in ("input_ids", "attention_mask", "labels")}
    length = max(map(len, columns["input_ids"]))
    fills = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        key: torch.tensor([value + [fills[key]] * (length - len(value)) for value in values])
        for key, values in columns.items()
    }


trainer = build()
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
best = trainer.state.best_model_checkpoint
saved = sorted(name for name in os.listdir("run") if name.startswith("checkpoint"))
evaluated = trainer.evaluate()["eval_loss"]

again = build()
again.train(resume_from_checkpoint="run/checkpoint-8")
resumed = [entry["loss"] for entry in again.state.log_history if "loss" in entry]

model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("llama"), best)
with torch.no_grad():
    reloaded = model(**collate(rows[:4])).loss.item()
same = {"losses": losses, "resumed": resumed, "saved": saved, "evaluated": evaluated, "best": best}
assert losses == resumed
assert abs(reloaded - evaluated) < 1e-3
