"""Bottleneck adapters: the formula, where they sit, their start, their settings."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.errors import ConfigError, TargetError
from petune.methods.bottleneck import START_STD, BottleneckConfig, BottleneckSlot, NormSlot


def test_forward_is_the_formula_of_the_paper() -> None:
    slot = BottleneckSlot(6, BottleneckConfig(bottleneck_size=3), torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    for parameter in slot.parameters():
        torch.nn.init.normal_(parameter)
    x, y = torch.randn(2, 5, 4), torch.randn(2, 5, 6)
    down, up = slot.down_weight.double(), slot.up_weight.double()
    inner = F.gelu(y.double() @ down.t() + slot.down_bias.double())
    expected = y.double() + inner @ up.t() + slot.up_bias.double()
    torch.testing.assert_close(slot(x, y).double(), expected, rtol=1e-5, atol=1e-5)
    assert slot.merged_weight(torch.ones(8, 8)) is None


def test_start_is_a_truncated_normal_and_zero_biases() -> None:
    slot = BottleneckSlot(500, BottleneckConfig(), torch.Generator().manual_seed(0))
    for weight in (slot.down_weight, slot.up_weight):
        assert weight.abs().max() <= 2 * START_STD
        assert weight.std().item() == pytest.approx(0.88 * START_STD, rel=0.05)  # of a normal cut at two deviations
    assert not slot.down_bias.any()
    assert not slot.up_bias.any()


@pytest.mark.parametrize(
    ("architecture", "attention", "mlp"),
    [
        ("llama", "self_attn.o_proj", "mlp.down_proj"),
        ("gpt2", "attn.c_proj", "mlp.c_proj"),
        ("gpt_neox", "attention.dense", "mlp.dense_4h_to_h"),
        ("bloom", "self_attention.dense", "mlp.dense_4h_to_h"),
    ],
)
def test_they_sit_behind_the_last_projection_of_each_sub_layer(
    architecture: str, attention: str, mlp: str, tiny_base: Callable[..., Base]
) -> None:
    base = tiny_base(architecture)
    both = create_adapter(base, "bottleneck", train_layer_norms=False).slots
    assert sorted(both) == sorted(f"{block}.{path}" for block in base.structure.blocks for path in (attention, mlp))
    for placement in ("pfeiffer", "parallel"):
        one = create_adapter(base, "bottleneck", placement=placement, train_layer_norms=False).slots
        assert sorted(one) == sorted(f"{block}.{mlp}" for block in base.structure.blocks)


PRE_NORM = {  # what the feed-forward layer reads, and where it ends
    "llama": ("post_attention_layernorm", "mlp"),
    "gpt2": ("ln_2", "mlp"),
    "gpt_neox": ("post_attention_layernorm", "mlp"),
}


@pytest.mark.parametrize("architecture", PRE_NORM)
@torch.no_grad()
def test_a_parallel_adapter_reads_what_the_feed_forward_layer_reads(
    architecture: str,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    base, ids = tiny_base(architecture), token_ids(2, 6)
    options = {"placement": "parallel", "scaling": 4.0, "train_layer_norms": False, "bottleneck_size": 5}
    adapter = randomise(create_adapter(base, "bottleneck", **options))
    ours = AdaptedModel(base, [adapter])(input_ids=ids).logits

    model, read = tiny_base(architecture).model, []

    def note(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        read.append(output)

    def adding(p: dict[str, torch.Tensor]) -> Callable[..., torch.Tensor]:
        def add(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
            inner = F.gelu(read.pop() @ p["down_weight"].t() + p["down_bias"])
            return output + 4.0 * (inner @ p["up_weight"].t() + p["up_bias"])

        return add

    for block, slot in zip(base.structure.blocks, adapter.slots.values(), strict=True):
        norm, mlp = (model.get_submodule(f"{block}.{name}") for name in PRE_NORM[architecture])
        norm.register_forward_hook(note)
        mlp.register_forward_hook(adding(dict(slot.named_parameters())))
    torch.testing.assert_close(ours, model(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


STREAM = {  # of the last linear of a sub-layer: what reads the residual stream before it, and the norm of the sum
    "bert": {
        "attention.output.dense": ("attention.self.query", "attention.output.LayerNorm"),
        "output.dense": ("intermediate.dense", "output.LayerNorm"),
    },
    "llama": {
        "self_attn.o_proj": ("input_layernorm", None),
        "mlp.down_proj": ("post_attention_layernorm", None),
    },
}


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer", "parallel"])
@pytest.mark.parametrize("architecture", STREAM)
@torch.no_grad()
def test_an_adapter_may_read_the_residual_stream(
    architecture: str,
    placement: str,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    base, ids = tiny_base(architecture), token_ids(2, 6)
    options = {"placement": placement, "adapter_input": "residual", "train_layer_norms": False, "bottleneck_size": 5}
    adapter = randomise(create_adapter(base, "bottleneck", **options))
    ours = AdaptedModel(base, [adapter])(input_ids=ids).logits

    model, stream = tiny_base(architecture).model, dict[str, torch.Tensor]()

    def plug(path: str, block: str) -> None:
        source, behind = STREAM[architecture][path.removeprefix(f"{block}.")]
        norm = nn.Identity() if behind is None else model.get_submodule(f"{block}.{behind}")
        p = dict(adapter.slots[path].named_parameters())

        def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            stream[path] = inputs[0]

        def add(module: nn.Module, inputs: object, y: torch.Tensor) -> torch.Tensor:
            z = stream[path] if placement == "parallel" else norm(stream[path] + y)
            return y + F.gelu(z @ p["down_weight"].t() + p["down_bias"]) @ p["up_weight"].t() + p["up_bias"]

        model.get_submodule(f"{block}.{source}").register_forward_pre_hook(note)
        model.get_submodule(path).register_forward_hook(add)

    for path in adapter.slots:
        plug(path, next(block for block in base.structure.blocks if path.startswith(f"{block}.")))
    assert len(adapter.slots) == (2 if placement == "houlsby" else 1) * base.structure.num_blocks
    torch.testing.assert_close(ours, model(input_ids=ids).logits, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_rows_of_one_batch_read_their_own_stream(
    tiny_base: Callable[..., Base], randomise: Callable[..., Adapter], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base("bert"), token_ids(3, 6)
    options = {"placement": "pfeiffer", "adapter_input": "residual"}
    adapters = [randomise(create_adapter(base, "bottleneck", name=n, **options), seed=i) for i, n in enumerate("ab")]
    model = AdaptedModel(base, adapters)
    with model.route(["b", None, "a"]):
        mixed = model(input_ids=ids).logits
    for row, stack in enumerate([("b",), (), ("a",)]):
        model.activate(*stack)
        torch.testing.assert_close(mixed[row], model(input_ids=ids[row : row + 1]).logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("architecture", "norms", "has_shift"), [("llama", 7, False), ("gpt2", 5, True)])
@torch.no_grad()
def test_layer_norms_learn_as_if_their_own_weights_did(
    architecture: str,
    norms: int,
    has_shift: bool,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    base, ids = tiny_base(architecture), token_ids(2, 6)
    adapter = randomise(create_adapter(base, "bottleneck"))
    learned = {path: slot for path, slot in adapter.slots.items() if isinstance(slot, NormSlot)}
    assert len(learned) == norms
    for slot in adapter.slots.values():
        if isinstance(slot, BottleneckSlot):
            slot.up_weight.zero_()
            slot.up_bias.zero_()
    ours = AdaptedModel(base, [adapter])(input_ids=ids).logits

    model = tiny_base(architecture).model
    for path, slot in learned.items():
        assert (slot.shift is not None) == has_shift
        model.get_parameter(f"{path}.weight").mul_(slot.factor)
        if slot.shift is not None:
            model.get_parameter(f"{path}.bias").mul_(slot.factor).add_(slot.shift)
    torch.testing.assert_close(ours, model(input_ids=ids).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_nearly_the_identity_at_the_start(
    tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base(), token_ids(3, 9)
    before = base.model(input_ids=ids, labels=ids).loss
    model = AdaptedModel(base, [create_adapter(base, "bottleneck")])
    assert abs(model.model(input_ids=ids, labels=ids).loss - before) < 1e-3


def test_sizes(tiny_base: Callable[..., Base]) -> None:
    adapter = create_adapter(tiny_base(), "bottleneck", bottleneck_size=None, reduction_factor=4)
    slot = next(slot for slot in adapter.slots.values() if isinstance(slot, BottleneckSlot))
    assert dict(slot.named_parameters())["down_weight"].shape == (8, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction_factor": 4}, "give one of bottleneck_size and reduction_factor"),
        ({"non_linearity": "gleu"}, r"non_linearity is 'gleu'.*Did you mean 'gelu'\?"),
        ({"placement": "everywhere"}, "'houlsby', 'pfeiffer' or 'parallel'"),
        ({"scaling": 0}, "'scaling' is 0"),
        ({"bottleneck_size": 10**9}, "'bottleneck_size' is 1000000000"),
        ({"bottleneck_size": None, "reduction_factor": 1e-9}, "reduction_factor is 1e-09: 32 divided by it is wider"),
        ({"adapter_input": "stream"}, "'sub_layer' or 'residual'"),
    ],
)
def test_bad_settings(options: dict[str, object], message: str, tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(ConfigError, match=message):
        create_adapter(tiny_base(), "bottleneck", **options)


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer", "parallel"])
def test_a_mixture_of_experts_is_refused(placement: str, tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(TargetError, match="holds experts, of which each token goes through some"):
        create_adapter(tiny_base("deepseek_v3"), "bottleneck", placement=placement)
