"""HF PEFT's interface: ``from petune.compat.peft import ...`` in place of ``from peft import ...``.

See docs/peft_scripts.md for what is the same, what differs, and what is refused.
"""

from transformers import PreTrainedModel

from petune.compat.config import PeftConfig, get_peft_config
from petune.compat.enumerations import PeftType, PromptEncoderReparameterizationType, PromptTuningInit, TaskType
from petune.compat.method_configs import (
    AdaptionPromptConfig,
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptLearningConfig,
    PromptTuningConfig,
)
from petune.compat.model import PeftModel
from petune.compat.state_dicts import get_peft_model_state_dict, set_peft_model_state_dict
from petune.compat.unsupported import refuse

__all__ = [
    "AdaptionPromptConfig",
    "IA3Config",
    "LoraConfig",
    "PeftConfig",
    "PeftModel",
    "PeftType",
    "PrefixTuningConfig",
    "PromptEncoderConfig",
    "PromptEncoderReparameterizationType",
    "PromptLearningConfig",
    "PromptTuningConfig",
    "PromptTuningInit",
    "TaskType",
    "get_peft_config",
    "get_peft_model",
    "get_peft_model_state_dict",
    "set_peft_model_state_dict",
]


def get_peft_model(
    model: PreTrainedModel,
    peft_config: PeftConfig,
    adapter_name: str = "default",
    mixed: bool = False,
    autocast_adapter_dtype: bool = True,
    revision: str | None = None,
    low_cpu_mem_usage: bool = False,
) -> PeftModel:
    """Return ``model`` with a fresh adapter, ready to be trained.

    Args:
        model: the model in memory; it is frozen in place.
        peft_config: settings of the adapter.
        adapter_name: its name.
        mixed: refused; adapters of different methods may always be attached.
        autocast_adapter_dtype: False is refused; an adapter's tensors are always fp32.
        revision: the commit of the base, to be recorded.
        low_cpu_mem_usage: refused.

    Raises:
        ConfigError: settings or arguments that petune, or this model, cannot follow.
        BaseModelError: a model that petune cannot use as a base.
    """
    refuse(
        "get_peft_model",
        mixed=mixed,
        autocast_adapter_dtype=autocast_adapter_dtype,
        low_cpu_mem_usage=low_cpu_mem_usage,
    )
    if revision is not None:
        peft_config.revision = revision
    return PeftModel(model, peft_config, adapter_name)
