"""P-tuning: virtual tokens whose embeddings a small network computes while training.

Paper: Liu, Zheng, Du, Ding, Qian, Yang, Tang: "GPT Understands, Too" (2021), https://arxiv.org/abs/2103.10385

    h_i = MLP([LSTM_forward(e)_i ; LSTM_backward(e)_i])      or      h_i = MLP(e_i),      e [P, d] learned

[h_1 .. h_P; X] takes the place of X, or a template says where they stand among X and other words. The network ties the
virtual tokens to each other and eases training; afterwards it is dropped, and h alone is kept.

Where we differ: the authors start from whatever the fresh network computes (``prompt_init: random``). By default ours
is started such that it computes the embeddings of sampled common tokens, by solving for its last layer.

Shapes: P virtual tokens, d hidden width, h width inside the network.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal, Self, final

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from petune.backbone.structure import Structure
from petune.methods.config import MethodConfig
from petune.methods.method import Finding, Method, Paper, Parts, Target, without_dropout
from petune.methods.soft_prompt import SoftPrompt, soft_prompt_slots, stands_outside_rows
from petune.methods.starts import draw, drawn_linear, fit_last_layer, start_ids
from petune.sites.attention import Source
from petune.sites.embeddings import EmbeddingSource, embedding_width, token_embeddings
from petune.sites.placement import Placement
from petune.sites.sites import Slot

LSTM_LAYERS = 2

_SUCCESSOR = Paper(
    "Liu et al.",
    2022,
    "P-Tuning v2: Prompt Tuning Can Be Comparable to Fine-tuning Universally Across Scales and Tasks",
    "https://arxiv.org/abs/2110.07602",
)


@final
class PTuningConfig(MethodConfig):
    """Settings of P-tuning."""

    num_virtual_tokens: int = Field(default=20, ge=1, le=4096)
    """How many virtual tokens; where a template is given, as many as it has."""

    prompt_template: str | None = None
    """Where they stand: `{p*3} {text} {p*3} the answer: {mask}`, the row's prompt as text (default: in front of it)."""

    encoder_reparameterization_type: Literal["MLP", "LSTM", "none"] = "MLP"
    """The network: three linears, or a two-way LSTM and two linears; none: what is left after training."""

    encoder_hidden_size: int | None = Field(default=None, ge=1)
    """Width h inside the network; by default the base's own, and half of it in each direction of an LSTM."""

    encoder_num_layers: int | None = Field(default=None, ge=1, le=16)
    """Layers of the LSTM; 2 where none is given."""

    encoder_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout between the layers of the LSTM, of which there must be two or more."""

    prompt_init: Literal["vocabulary", "text", "random"] = "vocabulary"
    """Start: embeddings of sampled common tokens, those of a text, or what the fresh network computes."""

    prompt_init_text: str | None = None
    """Text of the start; repeated where it is shorter than the prompt."""

    @model_validator(mode="before")
    @classmethod
    def _as_many_as_in_the_template(cls, settings: Any) -> Any:
        template = settings.get("prompt_template") if isinstance(settings, dict) else None
        if not isinstance(template, str):
            return settings
        return {"num_virtual_tokens": Placement.of_template(template).num_virtual_tokens, **settings}

    @model_validator(mode="after")
    def _settings_go_together(self) -> Self:
        if self.prompt_template is not None:
            found = Placement.of_template(self.prompt_template).num_virtual_tokens
            if found != self.num_virtual_tokens:
                raise ValueError(
                    f"num_virtual_tokens is {self.num_virtual_tokens}, and prompt_template has {found}: leave"
                    " num_virtual_tokens out, or make them the same"
                )
        if (self.prompt_init == "text") != (self.prompt_init_text is not None):
            raise ValueError("prompt_init=text and prompt_init_text go together; give both or neither")
        if self.encoder_reparameterization_type != "LSTM" and (self.encoder_num_layers or self.encoder_dropout):
            raise ValueError(
                "encoder_num_layers and encoder_dropout are the LSTM's; set encoder_reparameterization_type=LSTM with"
                " them"
            )
        if self.encoder_num_layers == 1 and self.encoder_dropout:
            raise ValueError(
                "encoder_dropout acts between the layers of the LSTM, and encoder_num_layers is 1; give two layers or"
                " more, or leave encoder_dropout out"
            )
        if self.encoder_reparameterization_type == "none" and self.encoder_hidden_size is not None:
            raise ValueError("encoder_hidden_size is the width of the network, and there is none; leave it out")
        if self.encoder_reparameterization_type == "none" and self.prompt_init == "random":
            raise ValueError("prompt_init=random is what a fresh network computes, and there is none; choose another")
        return self


class PromptEncoder(EmbeddingSource, ABC):
    """A network over the virtual tokens' own embeddings.

    Args:
        config: the settings.
        hidden_size: width d.
        generator: source of the start.
    """

    def __init__(self, config: PTuningConfig, hidden_size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(config.num_virtual_tokens, hidden_size, generator=generator))

    @property
    @abstractmethod
    def last(self) -> nn.Linear:
        """The layer that :meth:`inside` goes through at the end."""

    @abstractmethod
    def inside(self) -> Tensor:
        """Return what goes into the last layer [P, h or 2h]."""

    def embeddings(self) -> Tensor:
        """Return the virtual tokens' embeddings [P, d]."""
        computed: Tensor = self.last(self.inside())
        return computed

    def fit(self, start: Tensor) -> None:
        """Make the network compute ``start`` [P, d], by the smallest change of its last layer."""
        with without_dropout(self):
            fit_last_layer(self.last, self.inside(), start)


@final
class MLPEncoder(PromptEncoder):
    """Linear, ReLU, linear, ReLU, linear: each virtual token for itself."""

    def __init__(self, config: PTuningConfig, hidden_size: int, generator: torch.Generator) -> None:
        super().__init__(config, hidden_size, generator)
        width = config.encoder_hidden_size or hidden_size
        self.mlp_head = nn.Sequential(
            drawn_linear(hidden_size, width, generator),
            nn.ReLU(),
            drawn_linear(width, width, generator),
            nn.ReLU(),
            drawn_linear(width, hidden_size, generator),
        )

    @property
    def last(self) -> nn.Linear:
        """The last linear."""
        layer = self.mlp_head[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def inside(self) -> Tensor:
        """Return what goes into the last linear [P, h]."""
        computed: Tensor = self.mlp_head[:-1](self.embedding)
        return computed


@final
class LSTMEncoder(PromptEncoder):
    """A two-way LSTM over the virtual tokens, then linear, ReLU, linear."""

    def __init__(self, config: PTuningConfig, hidden_size: int, generator: torch.Generator) -> None:
        super().__init__(config, hidden_size, generator)
        width = config.encoder_hidden_size or max(1, hidden_size // 2)
        layers = config.encoder_num_layers or LSTM_LAYERS
        with torch.random.fork_rng(devices=[]):  # it draws a start of its own
            self.lstm_head = nn.LSTM(
                hidden_size, width, layers, bidirectional=True, batch_first=True, dropout=config.encoder_dropout
            )
        draw(self.lstm_head, width**-0.5, generator)
        self.mlp_head = nn.Sequential(
            drawn_linear(2 * width, 2 * width, generator), nn.ReLU(), drawn_linear(2 * width, hidden_size, generator)
        )

    @property
    def last(self) -> nn.Linear:
        """The last linear."""
        layer = self.mlp_head[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def inside(self) -> Tensor:
        """Return what goes into the last linear [P, 2h]."""
        computed: Tensor = self.mlp_head[:-1](self.lstm_head(self.embedding[None])[0][0])
        return computed


@final
class PTuning(Method[PTuningConfig]):
    """Virtual tokens that a network computes."""

    name = "p_tuning"
    title = "P-tuning"
    paper = Paper("Liu et al.", 2021, "GPT Understands, Too", "https://arxiv.org/abs/2103.10385")
    evidence = (
        Finding(
            "64 % of the facts of LAMA right at the first guess, with a GPT of 11 billion parameters.",
            "works",
            tasks=("causal_lm",),
            parameters=(1e10, math.inf),
        ),
        Finding("Weak on small bases.", "below", parameters=(0, 1e10), paper=_SUCCESSOR),
        Finding("Weak on sequence labelling.", "below", tasks=("token_classification",), paper=_SUCCESSOR),
    )
    sites = ("embeddings", "attention")
    learning_rate = 2e-3
    start = "free"
    variations = ({"num_virtual_tokens": 5}, {"num_virtual_tokens": 50}, {"prompt_init": "random"})
    config_class = PTuningConfig

    def build(self, config: PTuningConfig, target: Target) -> dict[str, Slot]:
        """Return a slot for every attention, or for the input embeddings; their values come from the virtual tokens."""
        return soft_prompt_slots(target, config.num_virtual_tokens, self.placement(config, target.structure))

    def source(self, config: PTuningConfig, target: Target) -> Source:
        """Return the network at its start, or the bare virtual tokens where there is none."""
        width = embedding_width(target.model)
        start = _start(config, width, target)
        if config.encoder_reparameterization_type == "none":
            return SoftPrompt(start)
        kind = MLPEncoder if config.encoder_reparameterization_type == "MLP" else LSTMEncoder
        encoder = kind(config, width, target.generator)
        if config.prompt_init != "random" and not target.shapes_only:
            encoder.fit(start)
        return encoder

    def placement(self, config: PTuningConfig, structure: Structure) -> Placement | None:
        """Return where the virtual tokens stand in a row; None where they are in front of everything."""
        if config.prompt_template is not None:
            return Placement.of_template(config.prompt_template)
        return None if stands_outside_rows(structure) else Placement.at("prepend", config.num_virtual_tokens)

    @torch.no_grad()
    def bake(self, parts: Parts[PTuningConfig]) -> Parts[PTuningConfig] | None:
        """Return the embeddings that the network computes, without it."""
        if not isinstance(parts.source, PromptEncoder):
            return None
        with without_dropout(parts.source):
            prompt = SoftPrompt(parts.source.embeddings())
        bare = {
            "encoder_reparameterization_type": "none",
            "encoder_hidden_size": None,
            "encoder_num_layers": None,
            "encoder_dropout": 0.0,
            "prompt_init": "vocabulary",
            "prompt_init_text": None,
        }
        return Parts(parts.config.model_copy(update=bare), parts.slots, prompt)


def _start(config: PTuningConfig, width: int, target: Target) -> Tensor:
    """Return the start [P, d] of the virtual tokens, whose width d is given."""
    if target.shapes_only:
        return torch.zeros(config.num_virtual_tokens, width)
    ids = start_ids(target, config.num_virtual_tokens, config.prompt_init_text, setting="prompt_init_text")
    return token_embeddings(target.model, ids)
