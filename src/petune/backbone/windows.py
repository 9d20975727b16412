"""How far the attentions of a model look back."""

from transformers import PreTrainedModel

_NAMES = ("sliding_window", "attention_chunk_size")
"""What configs call the tokens that an attention sees of a long sequence; a chunk stands in the mask alone."""


def attention_window(model: PreTrainedModel) -> int | None:
    """Return up to how many tokens of a sequence each sees all before it; None where that is any number."""
    config = model.config.get_text_config()
    windows = [getattr(config, name, None) for name in _NAMES]
    return min((window for window in windows if isinstance(window, int) and window > 0), default=None)
