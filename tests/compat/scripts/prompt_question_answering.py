"""Prompt tuning of an encoder that finds answers in a text."""

import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, set_seed

set_seed(0)
tokenizer = AutoTokenizer.from_pretrained("bert")
model = AutoModelForQuestionAnswering.from_pretrained("bert")
config = PromptTuningConfig(task_type="QUESTION_ANS", num_virtual_tokens=6, prompt_tuning_init="SAMPLE_VOCAB")
model = get_peft_model(model, config)
batch = tokenizer(["who?", "where is it?"], ["ann did", "in rome"], return_tensors="pt", padding=True)
places = {"start_positions": torch.tensor([6, 17]), "end_positions": torch.tensor([8, 20])}
optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=2e-2)
history = []
for _ in range(60):
    model.train()
    loss = model(**batch, **places).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    history.append(loss.item())
same = {"learnt": history[-1] < 0.5 * history[0]}
