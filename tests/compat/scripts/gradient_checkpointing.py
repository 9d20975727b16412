"""LoRA with activations computed again in the backward pass, reentrant and not."""

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("llama")
batch = tokenizer(["the cat sat"], return_tensors="pt")
gradients = {}
for reentrant in (None, False, True):
    model = get_peft_model(AutoModelForCausalLM.from_pretrained("llama"), LoraConfig(task_type="CAUSAL_LM", r=4))
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.constant_(parameter, 0.05)
    if reentrant is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()
    model.config.use_cache = False
    model.train()
    model(**batch, labels=batch["input_ids"]).loss.backward()
    gradients[reentrant] = [p.grad.norm() for p in model.parameters() if p.requires_grad]
same = {"gradients": sorted(g.item() for g in gradients[None])}
for reentrant in (False, True):
    torch.testing.assert_close(gradients[reentrant], gradients[None])
