"""What is raced: each method with its settings, and the bars that petune is held to."""

from dataclasses import dataclass, field, replace
from typing import Any

from race.settings import Settings

QUERY_KEY_VALUE_OUTPUT = ("q_proj", "k_proj", "v_proj", "o_proj")
VIRTUAL_TOKENS = 20


@dataclass(frozen=True, slots=True)
class Bars:
    """What petune must reach at least; None where nothing is asked."""

    default: float | None = None
    """Tokens/s as a multiple of the rival's as it comes."""
    tuned: float | None = None
    """Tokens/s as a multiple of the rival's when tuned."""
    floor: float | None = None
    """Tokens/s as a share of what this machine's matrix products alone would allow."""
    floor_compiled: float | None = None
    """The same share, with petune's blocks compiled."""
    memory: float | None = None
    """The most memory above the loaded model, as a multiple of the rival's as it comes."""


@dataclass(frozen=True, slots=True)
class Contest:
    """One method with one choice of settings, raced on every side."""

    title: str
    method: str
    """petune's name of the method."""
    options: dict[str, Any]
    """petune's settings of it."""
    bars: Bars = field(default_factory=Bars)
    rival: str = "peft"
    """The peer that the bars are about."""
    read_tokens: int = 0
    """Virtual tokens that go through the whole model, once a step at least."""
    trains_base: bool = False
    """Whether the base's own weights are learned, so that they need gradients."""
    compared_at: float = 1.0
    """The share of its rate at which first steps are compared: where a step changes the loss by half of it, what rounds
    differently grows a thousandfold in the next."""
    cached_from_epoch_two: bool = False
    """Whether petune keeps what the untouched lower blocks give, and is timed where it uses it."""

    def bars_on(self, card: str | None) -> Bars:
        """Return what petune must reach on a card, where the best that a peer does is the measure, or on a CPU."""
        if card is None:
            return self.bars
        return Bars(tuned=1.1 if self.method == "lora" else 2)

    def settings(self, settings: Settings) -> Settings:
        """Return the sizes of this contest: the race's own, or short epochs of which the second is timed."""
        if not self.cached_from_epoch_two:
            return settings
        steps = settings.warm_up_steps + settings.timed_steps
        rows = min(settings.rows, steps * settings.rows_per_step)
        return replace(settings, rows=rows, warm_up_steps=rows // settings.rows_per_step + settings.warm_up_steps)


_LORA = {"r": 8, "lora_alpha": 16, "lora_dropout": 0.0}
_PROMPT_BARS = Bars(default=4, tuned=2.5, floor=0.4)
_LORA_BARS = Bars(default=3, tuned=2, floor=0.4, floor_compiled=0.55, memory=0.5)
# The one form that HF PEFT has: one gate a layer, without tanh.
_GATED = {"adapter_len": 10, "gate_activation": "none", "shared_gate": True}

CONTESTS: dict[str, Contest] = {
    "lora": Contest(
        "LoRA r 8, q k v o",
        "lora",
        {**_LORA, "target_modules": list(QUERY_KEY_VALUE_OUTPUT)},
        _LORA_BARS,
    ),
    "lora_all_linear": Contest("LoRA r 8, all linears", "lora", {**_LORA, "target_modules": "all-linear"}, _LORA_BARS),
    "prompt_tuning": Contest(
        "prompt tuning, 20 virtual tokens",
        "prompt_tuning",
        {"num_virtual_tokens": VIRTUAL_TOKENS},
        _PROMPT_BARS,
        read_tokens=VIRTUAL_TOKENS,
        compared_at=0.1,
    ),
    "p_tuning": Contest(
        "P-tuning, 20 virtual tokens, MLP",
        "p_tuning",
        {"num_virtual_tokens": VIRTUAL_TOKENS},
        _PROMPT_BARS,
        read_tokens=VIRTUAL_TOKENS,
    ),
    "prefix_tuning": Contest(
        "prefix tuning, 20 virtual tokens", "prefix_tuning", {"num_virtual_tokens": VIRTUAL_TOKENS}, _PROMPT_BARS
    ),
    "p_tuning_v2": Contest(
        "P-tuning v2, 20 virtual tokens",
        "p_tuning_v2",
        {"num_virtual_tokens": VIRTUAL_TOKENS, "prefix_dropout": 0.0},
        _PROMPT_BARS,
    ),
    "bottleneck": Contest(
        "bottleneck adapters, 64 wide",
        "bottleneck",
        {"bottleneck_size": 64, "non_linearity": "relu", "train_layer_norms": False},
        Bars(default=3, tuned=2),
        rival="adapterhub",
    ),
    "llama_adapter": Contest(
        "LLaMA-Adapter, all layers but the lowest two", "llama_adapter", _GATED, Bars(default=3, tuned=2)
    ),
    "llama_adapter_top": Contest(
        "LLaMA-Adapter, top 10 layers, second epoch with the trunk cache",
        "llama_adapter",
        {**_GATED, "adapter_layers": 10},
        Bars(default=6),
        cached_from_epoch_two=True,
    ),
    "full": Contest("full fine-tuning", "full", {}, Bars(default=1.5, tuned=1.2), trains_base=True),
}
