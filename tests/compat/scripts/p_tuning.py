"""P-tuning of a causal model; what is saved is what the encoder computed."""

import torch
from peft import PeftModel, PromptEncoderConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

set_seed(0)
tokenizer = AutoTokenizer.from_pretrained("gpt2")
config = PromptEncoderConfig(
    task_type="CAUSAL_LM",
    num_virtual_tokens=8,
    encoder_reparameterization_type="MLP",
    encoder_hidden_size=24,
)
model = get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), config)
model.print_trainable_parameters()

batch = tokenizer(["the cat sat", "a dog ran"], return_tensors="pt", padding=True, padding_side="right")
labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
labels[:, 0] = -100
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
losses = []
for _ in range(30):
    model.train()
    loss = model(**batch, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    losses.append(loss.item())

model.eval()
with torch.no_grad():
    trained = model(**batch, labels=labels).loss.item()
model.save_pretrained("p_tuned")
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("gpt2"), "p_tuned")
with torch.no_grad():
    reloaded = model(**batch, labels=labels).loss.item()
same = {"training": model.training}
assert abs(trained - reloaded) < 1e-4
