"""LoRA on an encoder with a classification head, in the Trainer, with a metric; saved and loaded with its head."""

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed

set_seed(0)
tokenizer = AutoTokenizer.from_pretrained("bert")
model = AutoModelForSequenceClassification.from_pretrained("bert", num_labels=2)
config = LoraConfig(task_type=TaskType.SEQ_CLS, inference_mode=False, r=8, lora_alpha=16, lora_dropout=0.0)
model = get_peft_model(model, config)
for name, parameter in model.named_parameters():
    if "lora_A" in name:
        torch.nn.init.constant_(parameter, 0.1)

texts = [("good", 1), ("bad", 0), ("fine film", 1), ("dull play", 0)] * 4
rows = [{**tokenizer(text, padding="max_length", max_length=12), "labels": label} for text, label in texts]


def accuracy(prediction):
    logits, labels = prediction
    return {"accuracy": float((logits.argmax(-1) == labels).mean())}


trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir="classes", per_device_train_batch_size=4, num_train_epochs=5, learning_rate=1e-2,
        logging_steps=1, eval_strategy="epoch", save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    ),
    train_dataset=rows,
    eval_dataset=rows[:4],
    compute_metrics=accuracy,
)  # fmt: skip
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
metrics = trainer.evaluate()

model.save_pretrained("classifier")
batch = {key: torch.tensor([row[key] for row in rows[:4]]) for key in rows[0]}
model.eval()
with torch.no_grad():
    live = model(**batch).logits
base = AutoModelForSequenceClassification.from_pretrained("bert", num_labels=2)
loaded = PeftModel.from_pretrained(base, "classifier")
with torch.no_grad():
    reloaded = loaded(**batch).logits
same = {
    "losses": losses,
    "accuracy": metrics["eval_accuracy"],
    "live": live,
    "reloaded": reloaded,
    "trainable": model.get_nb_trainable_parameters()[0],
}
assert torch.allclose(live, reloaded, atol=1e-4)
