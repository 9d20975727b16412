"""Generation with an adapter: greedy, by beam search, and through a pipeline."""

import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("llama", padding_side="left")
model = AutoModelForCausalLM.from_pretrained("llama")
config = LoraConfig(task_type=TaskType.CAUSAL_LM, inference_mode=False, r=8, lora_alpha=32, lora_dropout=0.1)
model = get_peft_model(model, config)
for name, parameter in model.named_parameters():
    if "lora_" in name:
        torch.nn.init.constant_(parameter, 0.05)
model.eval()
inputs = tokenizer(["the cat", "a dog ran to"], return_tensors="pt", padding=True).to(model.device)
with torch.no_grad():
    greedy = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    beams = model.generate(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], max_new_tokens=6,
                           num_beams=3)  # fmt: skip
    torch.manual_seed(0)
    sampled = model.generate(**inputs, max_new_tokens=6, do_sample=True, top_k=10, temperature=0.7)
same = {
    "greedy": greedy,
    "beams": beams,
    "sampled": sampled,
    "text": tokenizer.batch_decode(greedy, skip_special_tokens=True),
    "vocabulary": model.config.vocab_size,
    "embeddings": list(model.get_input_embeddings().weight.shape),
}
