"""LoRA: a low-rank update beside frozen linears and embeddings.

Paper: Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen: "LoRA: Low-Rank Adaptation of Large Language Models" (2021),
https://arxiv.org/abs/2106.09685

    y = W x + s B A dropout(x),   s = alpha / r,   or alpha / sqrt(r) with ``use_rslora`` (Kalajdzievski 2023,
    https://arxiv.org/abs/2312.03732)

B starts at zero, so the base is unchanged at the start. A starts from the uniform distribution with bound
1 / sqrt(d_in), as the authors' code and HF PEFT do (the paper writes "Gaussian"). Of an embedding, A starts at zero and
B from N(0, 1), as in the authors' code.

Variants: DoRA (dora.py), the PiSSA start (pissa.py), and rates of LoRA+ (Hayou, Ghosh, Yu 2024,
https://arxiv.org/abs/2402.12354): B learns ``loraplus_lr_ratio`` times as fast as A. It is about linears:
embeddings, whose A starts at zero in place of B, keep the rate of A. The authors' code and HF PEFT leave them out too.

Where we differ: nothing in the maths. Fused projections (GPT-2's c_attn, GPT-NeoX's query_key_value) are adapted as the
one linear they are; so is a projection that several blocks share.
"""

import math
from typing import Annotated, Self, TypeVar, final

import torch
from pydantic import AliasChoices, Field, field_validator, model_validator
from torch import Tensor

from petune.backbone.embeddings import Embedding
from petune.backbone.structure import Linear
from petune.backbone.targets import first_matching
from petune.errors import ConfigError, TargetError
from petune.methods.config import MethodConfig
from petune.methods.low_rank_slots import LoRAEmbeddingSlot, LoRASlot, LowRankSlot
from petune.methods.method import Finding, Method, Paper, Parts, Target
from petune.methods.pissa import is_pissa, principal_start
from petune.sites.host import Host
from petune.sites.sites import Slot

Rank = Annotated[int, Field(ge=1, le=65536)]
Alpha = Annotated[float, Field(gt=0, le=1e6)]

NumberT = TypeVar("NumberT", int, float)


@final
class LoRAConfig(MethodConfig):
    """Settings of LoRA."""

    r: Rank = Field(default=8, validation_alias=AliasChoices("r", "lora_r"))
    """Rank of the update."""

    lora_alpha: Alpha = 16.0
    """Numerator of the scale: alpha / r, or alpha / sqrt(r) with use_rslora."""

    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropping an input of the update during training."""

    use_rslora: bool = False
    """Scale by alpha / sqrt(r) instead of alpha / r."""

    use_dora: bool = False
    """Learn the length of each row of the weight apart from its direction (DoRA)."""

    init_lora_weights: bool | str = True
    """Start: true (A uniform, B zero), gaussian, false (both random), pissa, or pissa_niter_<n> for its fast SVD."""

    loraplus_lr_ratio: float | None = Field(default=None, gt=0, le=1e6)
    """Learning rate of B divided by that of A in linears (LoRA+); the same rate for both if not given."""

    target_modules: str | tuple[str, ...] = "all-linear"
    """Modules to adapt: a role (attention, mlp, all-linear), names (q_proj, embed_tokens), or a pattern over paths."""

    exclude_modules: str | tuple[str, ...] = ()
    """Modules to leave out, written the same way."""

    layers_to_transform: tuple[int, ...] | None = None
    """Indices of the blocks to adapt; all blocks if not given."""

    layers_pattern: str | tuple[str, ...] = ()
    """Names of the lists that layers_to_transform counts in, such as layers or h; all blocks count if not given."""

    rank_pattern: dict[str, Rank] | None = None
    """Ranks of their own for modules whose path, or its end, matches a regular expression: `q_proj: 16`."""

    alpha_pattern: dict[str, Alpha] | None = None
    """Numerators of the scale for such modules."""

    @field_validator("init_lora_weights")
    @classmethod
    def _known_start(cls, value: bool | str) -> bool | str:
        words = {"true": True, "false": False}
        value = words.get(value.lower(), value.lower()) if isinstance(value, str) else value
        if isinstance(value, str) and value != "gaussian" and not is_pissa(value):
            raise ValueError("choose true, false, gaussian, pissa, or pissa_niter_<n> with a number of rounds")
        return value

    @model_validator(mode="after")
    def _pattern_needs_layers(self) -> Self:
        if self.layers_pattern and self.layers_to_transform is None:
            raise ValueError("layers_pattern says where layers_to_transform counts; give both or neither")
        return self

    def scale(self, rank: int, alpha: float) -> float:
        """Return s for a rank and an alpha."""
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


@final
class LoRA(Method[LoRAConfig]):
    """Low-rank adaptation of chosen linears and embeddings."""

    name = "lora"
    title = "LoRA"
    paper = Paper(
        "Hu et al.",
        2021,
        "LoRA: Low-Rank Adaptation of Large Language Models",
        "https://arxiv.org/abs/2106.09685",
    )
    evidence = (
        Finding(
            "On E2E with GPT-2 medium 70.4 BLEU with 0.35 million learned numbers, 68.2 for full fine-tuning; on DART"
            " 47.1 and 46.0.",
            "above",
            tasks=("causal_lm",),
        ),
        Finding(
            "Mean over GLUE with RoBERTa-base 87.2 with 0.3 million learned numbers, 86.4 for full fine-tuning; with"
            " DeBERTa-XXL 91.3 and 91.1.",
            "above",
            tasks=("sequence_classification",),
        ),
    )
    sites = ("output",)
    learning_rate = 4e-4
    start = "exact"
    variations = ({"r": 2, "lora_alpha": 4.0}, {"r": 32, "lora_alpha": 64.0})
    config_class = LoRAConfig

    def build(self, config: LoRAConfig, target: Target) -> dict[str, Slot]:
        """Return one slot for each chosen linear and embedding.

        Raises:
            TargetError: nothing is chosen, or a pattern of ranks or alphas matches nothing that is.
            ConfigError: LoRA+ without a linear, or more ranks than a weight has singular values.
        """
        lists = config.layers_pattern
        chosen = target.structure.select_with_embeddings(
            config.target_modules,
            exclude=config.exclude_modules,
            layers=config.layers_to_transform,
            layers_pattern=(lists,) if isinstance(lists, str) and lists else tuple(lists),
        )
        plus = config.loraplus_lr_ratio is not None and not target.shapes_only
        if plus and all(isinstance(module, Embedding) for module in chosen):
            raise ConfigError(
                "loraplus_lr_ratio is about the B of linears, and target_modules names embeddings alone; leave it out,"
                " or give '*.lora_embedding_B' a rate of its own in module_learning_rates"
            )
        paths = [module.path for module in chosen]
        ranks = _by_pattern(config.rank_pattern, paths, "rank_pattern")
        alphas = _by_pattern(config.alpha_pattern, paths, "alpha_pattern")
        return {
            module.path: _slot(
                module, config, target, ranks.get(module.path, config.r), alphas.get(module.path, config.lora_alpha)
            )
            for module in chosen
        }

    def rate_factor(self, config: LoRAConfig, parameter: str) -> float:
        """Return the factor on the learning rate of one parameter: that of a linear's B may be higher."""
        return config.loraplus_lr_ratio or 1.0 if parameter.endswith(".lora_B") else 1.0

    def bake(self, parts: Parts[LoRAConfig]) -> Parts[LoRAConfig] | None:
        """Return an update that starts nowhere: one counted from its start has twice the rank without it."""
        config = parts.config
        if not is_pissa(config.init_lora_weights):
            return None
        slots: dict[str, Slot] = {path: _without_start(slot) for path, slot in parts.slots.items()}
        # alpha / 2r and alpha / sqrt(2r) keep the scale where alpha grows as well.
        growth = math.sqrt(2) if config.use_rslora else 2.0
        ranks, alphas = config.rank_pattern or {}, config.alpha_pattern or {}
        baked = config.model_copy(
            update={
                "init_lora_weights": True,
                "r": 2 * config.r,
                "lora_alpha": growth * config.lora_alpha,
                "rank_pattern": {pattern: 2 * rank for pattern, rank in ranks.items()} or None,
                "alpha_pattern": {pattern: growth * alpha for pattern, alpha in alphas.items()} or None,
            }
        )
        return Parts(baked, slots, parts.source)


def _by_pattern(settings: dict[str, NumberT] | None, paths: list[str], what: str) -> dict[str, NumberT]:
    """Return the setting of each path that a pattern matches; the first pattern counts."""
    found = {path: first_matching(settings or (), path, what=what) for path in paths}
    unused = (settings or {}).keys() - set(found.values())
    if unused:
        raise TargetError(
            f"{what}: {min(unused)!r} matches none of the modules that are adapted; their paths look like '{paths[0]}'"
        )
    return {path: (settings or {})[pattern] for path, pattern in found.items() if pattern is not None}


def _slot(module: Linear | Embedding, config: LoRAConfig, target: Target, rank: int, alpha: float) -> LowRankSlot:
    scale = config.scale(rank, alpha)
    host = Host(target.model.get_submodule(module.path))
    weight = None if target.shapes_only or host.weight.is_meta else host.weight
    slot: LowRankSlot
    if isinstance(module, Embedding):
        a, b = _embedding_start(module, rank, config, target.generator)
        slot = LoRAEmbeddingSlot(a, b, scale, has_magnitude=config.use_dora)
    else:
        a, b = _linear_start(module, rank, scale, config, weight, target.generator)
        pissa = is_pissa(config.init_lora_weights)
        slot = LoRASlot(a, b, scale, dropout=config.lora_dropout, has_magnitude=config.use_dora, subtract_start=pissa)
    if config.use_dora and weight is not None:
        slot.to(weight.device).start_magnitude(host)
    return slot


def _linear_start(
    linear: Linear, rank: int, scale: float, config: LoRAConfig, weight: Tensor | None, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return A [r, d_in] and B [d_out, r] at the start; without a weight, only their shapes mean something."""
    name, width = config.init_lora_weights, linear.in_features
    if isinstance(name, str) and is_pissa(name):
        if rank > min(width, linear.out_features):
            raise ConfigError(
                f"init_lora_weights={name}: rank {rank} is more than '{linear.path}' has singular values"
                f" ({min(width, linear.out_features)}); lower r, or give it a rank of its own in rank_pattern"
            )
        if weight is not None:
            return principal_start(weight, rank, scale, name, generator)
    a, b = torch.empty(rank, width), torch.zeros(linear.out_features, rank)
    if name == "gaussian":
        return a.normal_(std=1 / rank, generator=generator), b
    a.uniform_(-1 / math.sqrt(width), 1 / math.sqrt(width), generator=generator)
    if name is False:
        b.uniform_(-1 / math.sqrt(rank), 1 / math.sqrt(rank), generator=generator)
    return a, b


def _embedding_start(
    embedding: Embedding, rank: int, config: LoRAConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return A [r, V] and B [d, r] at the start: every name but false means the same here."""
    a = torch.zeros(rank, embedding.num_embeddings)
    if config.init_lora_weights is False:
        a.normal_(generator=generator)
    return a, torch.randn(embedding.embedding_dim, rank, generator=generator)


@torch.no_grad()
def _without_start(slot: Slot) -> LowRankSlot:
    """Return a slot of twice the rank that computes the same without its start."""
    assert isinstance(slot, LowRankSlot)
    magnitude = slot.lora_magnitude_vector
    a, b = (factor.detach().clone() for factor in slot.change)
    twice: LowRankSlot
    if isinstance(slot, LoRASlot):
        twice = LoRASlot(a, b, slot.scale, dropout=slot.dropout, has_magnitude=magnitude is not None)
    else:  # an embedding starts as always; zeros make its rank that of the others
        a, b = torch.cat([a, torch.zeros_like(a)]), torch.cat([b, torch.zeros_like(b)], dim=1)
        twice = LoRAEmbeddingSlot(a, b, slot.scale, has_magnitude=magnitude is not None)
    if magnitude is not None and twice.lora_magnitude_vector is not None:
        twice.lora_magnitude_vector.copy_(magnitude)
    return twice
