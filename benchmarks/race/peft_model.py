"""HF PEFT's model of a contest, with the adapter that every side starts from."""

import torch
from peft import PeftConfig, PeftModel, PromptEncoderConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from race.task import Task
from race.trainer_contest import contest_of, model_options
from race.work import Work

WEIGHTS = "adapter_model.safetensors"


def load_model(task: Task) -> nn.Module:
    """Return the base with its adapter, ready to train; the base itself where it is what is learned."""
    torch.set_num_threads(task.work.settings.threads)
    contest = contest_of(task)
    base = AutoModelForCausalLM.from_pretrained(task.work.model, **model_options(task))
    if contest.trains_base:
        return base
    if contest.method == "p_tuning":
        return _with_encoder(task.work, base, contest.read_tokens)
    config = PeftConfig.from_pretrained(task.work.start)
    if config.is_prompt_learning:
        return _with_virtual_tokens(task.work, base, config)
    return PeftModel.from_pretrained(base, task.work.start, is_trainable=True)


@torch.no_grad()
def _with_virtual_tokens(work: Work, base: nn.Module, config: PeftConfig) -> nn.Module:
    """Return the base with virtual tokens, which PEFT does not train on from a folder: they are copied."""
    config.inference_mode = False
    model = get_peft_model(base, config)
    model.prompt_encoder["default"].embedding.weight.copy_(load_file(work.start / WEIGHTS)["prompt_embeddings"])
    return model


@torch.no_grad()
def _with_encoder(work: Work, base: nn.Module, tokens: int) -> nn.Module:
    """Return the base with P-tuning's network, which no adapter file holds: its tensors are copied one by one."""
    config = PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=tokens, encoder_reparameterization_type="MLP"
    )
    model = get_peft_model(base, config)
    encoder = model.prompt_encoder["default"]
    given = load_file(work.start_tensors)
    encoder.embedding.weight.copy_(given["source.embedding"])
    for name, parameter in encoder.mlp_head.named_parameters():
        parameter.copy_(given[f"source.mlp_head.{name}"])
    return model
