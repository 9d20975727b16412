"""LoRA on an encoder-decoder, in the trainer of sequences to sequences, which generates to evaluate."""

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    set_seed,
)

set_seed(0)
tokenizer = AutoTokenizer.from_pretrained("t5")
model = AutoModelForSeq2SeqLM.from_pretrained("t5")
config = LoraConfig(r=16, lora_alpha=32, target_modules=["q", "v"], bias="none", task_type=TaskType.SEQ_2_SEQ_LM)
model = get_peft_model(model, config)
for name, parameter in model.named_parameters():
    if "lora_A" in name:
        torch.nn.init.constant_(parameter, 0.1)
pairs = [("say cat", "cat"), ("say dog", "dog"), ("say sun", "sun"), ("say sea", "sea")] * 3
rows = [{**tokenizer(source), "labels": tokenizer(target)["input_ids"]} for source, target in pairs]
trainer = Seq2SeqTrainer(
    model=model,
    args=Seq2SeqTrainingArguments(
        output_dir="t5_lora", per_device_train_batch_size=4, num_train_epochs=4, learning_rate=1e-2, logging_steps=1,
        predict_with_generate=True, generation_max_length=6, save_strategy="no", report_to=[], use_cpu=True,
        disable_tqdm=True,
    ),
    train_dataset=rows,
    eval_dataset=rows[:4],
    data_collator=DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=-100),
)  # fmt: skip
model.config.use_cache = False
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
answers = trainer.predict(rows[:4]).predictions
same = {"losses": losses, "answers": torch.tensor(answers), "trainable": model.get_nb_trainable_parameters()}
