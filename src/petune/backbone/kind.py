"""Which way a model reads: as a decoder, an encoder, or both."""

from typing import Literal

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

Kind = Literal["decoder", "encoder", "encoder-decoder"]


def kind_of(config: PreTrainedConfig) -> Kind:
    """Tell a left-to-right decoder from an encoder and an encoder-decoder.

    Some encoders (BERT and its kin) can be configured to read left to right, and count as decoders only then.
    """
    if config.is_encoder_decoder:
        return "encoder-decoder"
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        # a type that transformers does not know comes with its own code, loaded as a causal language model
        return "encoder" if config.model_type in CONFIG_MAPPING_NAMES else "decoder"
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "decoder" if config.to_dict().get("is_decoder", False) else "encoder"
    return "decoder"
