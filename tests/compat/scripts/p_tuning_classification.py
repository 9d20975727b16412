"""P-tuning of an encoder with a classification head, in the Trainer."""

from peft import PromptEncoderConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

set_seed(0)
tokenizer = AutoTokenizer.from_pretrained("bert")
config = PromptEncoderConfig(task_type="SEQ_CLS", num_virtual_tokens=6, encoder_hidden_size=16)
model = get_peft_model(AutoModelForSequenceClassification.from_pretrained("bert", num_labels=2), config)
model.print_trainable_parameters()
texts = [("good", 1), ("bad", 0), ("fine film", 1), ("dull play", 0)] * 4
rows = [{**tokenizer(text), "labels": label} for text, label in texts]
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir="p_classes", per_device_train_batch_size=8, num_train_epochs=15, learning_rate=1e-2,
        logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    ),
    train_dataset=rows,
    data_collator=DataCollatorWithPadding(tokenizer),
)  # fmt: skip
trainer.train()
history = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
same = {"steps": trainer.state.global_step, "learnt": sum(history[-4:]) < 0.85 * sum(history[:4])}
