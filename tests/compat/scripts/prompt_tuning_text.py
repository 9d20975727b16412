"""Prompt tuning of a causal model from a text that is longer than the prompt, on labelled tweets."""

import torch
from peft import PromptTuningConfig, PromptTuningInit, TaskType, get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, default_data_collator, get_linear_schedule_with_warmup

name = "gpt2"
config = PromptTuningConfig(
    task_type=TaskType.CAUSAL_LM,
    prompt_tuning_init=PromptTuningInit.TEXT,
    num_virtual_tokens=8,
    prompt_tuning_init_text="Classify if the tweet is a complaint or not:",
    tokenizer_name_or_path=name,
)
tokenizer = AutoTokenizer.from_pretrained(name)
tweets = [("my phone broke", "complaint"), ("what a day", "no complaint"), ("late again", "complaint")]


def encode(text, label, length=48):
    prompt = tokenizer(f"Tweet text : {text} Label : ")["input_ids"]
    answer = [*tokenizer(label)["input_ids"], tokenizer.eos_token_id]
    missing = length - len(prompt) - len(answer)
    return {
        "input_ids": torch.tensor([*prompt, *answer, *[tokenizer.pad_token_id] * missing]),
        "attention_mask": torch.tensor([*[1] * (length - missing), *[0] * missing]),
        "labels": torch.tensor([*[-100] * len(prompt), *answer, *[-100] * missing]),
    }


loader = DataLoader([encode(*tweet) for tweet in tweets], collate_fn=default_data_collator, batch_size=3)
model = AutoModelForCausalLM.from_pretrained(name)
model = get_peft_model(model, config)
model.print_trainable_parameters()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-2)
schedule = get_linear_schedule_with_warmup(optimizer, num_warmup_steps=0, num_training_steps=10)

losses = []
for _ in range(10):
    model.train()
    for batch in loader:
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.detach().item())

model.eval()
inputs = tokenizer("Tweet text : no internet Label : ", return_tensors="pt")
with torch.no_grad():
    answer = model.generate(**inputs, max_new_tokens=5, do_sample=False, eos_token_id=3)
same = {"losses": losses, "answer": answer, "trainable": model.get_nb_trainable_parameters()}
