"""Adapters on a base: attaching, choosing, merging, and what is refused."""

import gc
from collections.abc import Callable

import pytest
import torch

from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, build_adapter, create_adapter
from petune.backbone.base import Base
from petune.errors import AdapterFormatError, ConfigError, TargetError

Trained = Callable[..., Adapter]


@pytest.fixture
def ids(token_ids: Callable[..., torch.Tensor]) -> torch.Tensor:
    return token_ids(2, 6)


def test_names_of_any_shape(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    names = ("v1.2", "keys", "train", "a/b", "forward", "Größe")
    model = AdaptedModel(base, [create_adapter(base, name=name) for name in names])
    assert tuple(model.adapters) == names
    assert len(list(model.parameters())) == len(list(base.model.parameters())) + 6 * 42
    for name in names:
        assert model.adapter(name).name == name
        assert model.detach(name).name == name
    assert len(list(model.parameters())) == len(list(base.model.parameters()))


def test_unknown_and_taken_names_are_refused(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    model = AdaptedModel(base, [create_adapter(base, name="alpha")])
    for call in (model.adapter, model.detach, model.merge, model.unmerge, model.activate):
        with pytest.raises(
            ConfigError, match=r"no adapter 'alhpa' is attached; attached: alpha\. Did you mean 'alpha'"
        ):
            call("alhpa")
    with pytest.raises(ConfigError, match="no adapter 'x' is attached"):
        model.route(["alpha", "x"])
    with pytest.raises(ConfigError, match="'alpha' is attached already; detach it or choose another name"):
        model.attach(create_adapter(base, name="alpha"))
    with pytest.raises(ConfigError, match="attached: none"):
        AdaptedModel(base).adapter("alpha")


def test_the_last_attached_is_active_unless_told_otherwise(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    model = AdaptedModel(base)
    assert model.active == ()
    model.attach(create_adapter(base, name="a"))
    model.attach(create_adapter(base, name="b"), active=False)
    assert model.active == ("a",)
    model.activate("b", "a")
    assert model.active == ("b", "a")
    model.detach("b")
    assert model.active == ("a",)


def test_weights_cannot_be_replaced_beside_other_adapters(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    for first, second in (("lora", "full"), ("full", "lora"), ("full", "full")):
        model = AdaptedModel(base, [create_adapter(base, first, name="a")])
        with pytest.raises(ConfigError, match="replaces weights of the base, so it cannot be attached beside"):
            model.attach(create_adapter(base, second, name="b"))
        model.detach("a")
    model = AdaptedModel(base, [create_adapter(base, "full", name="a")])
    with pytest.raises(ConfigError, match="'a' replaces weights of the base: every row must go through it"):
        model.route(["a", None])
    with model.route(["a", "a"]):
        pass


def test_an_adapter_of_another_base_is_refused_before_anything_is_plugged_in(tiny_base: Callable[..., Base]) -> None:
    base, deeper = tiny_base(), tiny_base(num_hidden_layers=4)
    model = AdaptedModel(base)
    for method in ("lora", "full"):
        with pytest.raises(
            ConfigError, match=r"'default' was made for another base: this one has no 'model\.layers\.3"
        ):
            model.attach(create_adapter(deeper, method))
    assert not model.adapters
    assert not any(m._forward_hooks for m in base.model.modules())


def test_a_base_has_one_adapted_model_at_a_time(
    tiny_base: Callable[..., Base], randomise: Trained, ids: torch.Tensor
) -> None:
    for method in ("lora", "full"):
        base = tiny_base(dtype=torch.bfloat16)
        bare = base.model(input_ids=ids).logits
        first = AdaptedModel(base, [randomise(create_adapter(base, method))])
        second = AdaptedModel(base)
        with pytest.raises(ConfigError, match=r"another AdaptedModel has adapters attached to .*: use that one"):
            second.attach(create_adapter(base, method))
        assert not second.adapters
        adapter = first.detach("default")
        second.attach(adapter)
        assert not torch.equal(second(input_ids=ids).logits, bare)
        del second  # forgotten with the adapter attached
        gc.collect()
        assert torch.equal(base.model(input_ids=ids).logits, bare)
        first.attach(adapter)
        first.detach("default")


def test_a_forgotten_model_without_adapters_leaves_its_successor_alone(
    tiny_base: Callable[..., Base], randomise: Trained, ids: torch.Tensor
) -> None:
    base = tiny_base()
    bare = base.model(input_ids=ids).logits
    model = AdaptedModel(base, [create_adapter(base)])
    adapter = randomise(model.detach("default"))
    model = AdaptedModel(base, [adapter])  # the first one ends here, after the second has begun
    gc.collect()
    assert not torch.equal(model(input_ids=ids).logits, bare)


@torch.no_grad()
def test_baking_keeps_outputs_and_what_is_active(
    tiny_base: Callable[..., Base], randomise: Trained, ids: torch.Tensor
) -> None:
    base = tiny_base()
    encoded = randomise(create_adapter(base, "p_tuning", name="encoded", num_virtual_tokens=3))
    encoded.data_format = {"template": "{{ text }}"}
    model = AdaptedModel(base, [randomise(create_adapter(base, name="plain")), encoded])
    for active in (("encoded",), ("plain",), ("encoded", "plain"), ()):
        model.activate(*active)
        before = model(input_ids=ids).logits
        model.bake("encoded")
        model.bake("plain")  # nothing to drop
        assert model.active == active
        assert torch.equal(model(input_ids=ids).logits, before)
    kept = model.adapter("encoded")
    assert kept is not encoded
    assert kept.data_format == encoded.data_format
    assert kept.trained_config == encoded.config != kept.config
    assert kept.baked() is kept
    assert not any(p.requires_grad for p in kept.parameters())


def test_a_checkpoint_of_an_encoder_does_not_take_what_is_kept_of_it(tiny_base: Callable[..., Base]) -> None:
    for method, options in (("p_tuning", {}), ("prefix_tuning", {"prefix_projection": True})):
        adapter = create_adapter(tiny_base(), method, **options)
        kept = adapter.baked().tensors()
        assert not kept.keys() & adapter.tensors().keys()
        with pytest.raises(AdapterFormatError, match=r"the tensors do not fit method .* is (missing|unknown)"):
            adapter.load_tensors(kept)


def test_merge_and_unmerge_several(tiny_base: Callable[..., Base], randomise: Trained, ids: torch.Tensor) -> None:
    base = tiny_base()
    a, b = (randomise(create_adapter(base, name=n, r=r), seed=r) for n, r in (("a", 2), ("b", 3)))
    model = AdaptedModel(base, [a, b])
    model.activate("a", "b")
    before = {n: t.clone() for n, t in base.model.state_dict().items()}
    with torch.no_grad():
        live = model(input_ids=ids).logits
        model.merge("a")
        model.merge("b")
        torch.testing.assert_close(model(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="'a' is merged already"):
        model.merge("a")
    with pytest.raises(ConfigError, match="'b' was merged after 'a': unmerge 'b' first"):
        model.unmerge("a")
    with pytest.raises(ConfigError, match="rows cannot be routed while an adapter is merged; call unmerge first"):
        model.route(["a", None])
    with pytest.raises(ConfigError, match="'a' is merged, so every row goes through it already; call unmerge first"):
        model.activate("a")
    model.unmerge("b")
    model.unmerge("a")
    with pytest.raises(ConfigError, match="'a' is not merged"):
        model.unmerge("a")
    assert all(torch.equal(t, before[n]) for n, t in base.model.state_dict().items())
    assert set(model.active) == {"a", "b"}


def test_what_is_attached_after_a_final_merge_starts_from_the_sums(
    tiny_base: Callable[..., Base], randomise: Trained, ids: torch.Tensor
) -> None:
    base = tiny_base()
    model = AdaptedModel(base, [randomise(create_adapter(base, name="a"))])
    with torch.no_grad():
        model.merge("a")
        model.keep_merged()
        merged = model(input_ids=ids).logits
        model.attach(create_adapter(base, name="b", use_dora=True))
        torch.testing.assert_close(model(input_ids=ids).logits, merged, rtol=1e-5, atol=1e-5)


def test_unmerging_an_inactive_adapter_leaves_it_inactive(
    tiny_base: Callable[..., Base], randomise: Trained, ids: torch.Tensor
) -> None:
    base = tiny_base()
    model = AdaptedModel(base)
    model.attach(randomise(create_adapter(base)), active=False)
    with torch.no_grad():
        bare = model(input_ids=ids).logits
        model.merge("default")
        assert not torch.allclose(model(input_ids=ids).logits, bare, atol=1e-2)
        model.unmerge("default")
        assert model.active == ()
        assert torch.equal(model(input_ids=ids).logits, bare)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5), (torch.bfloat16, 0.1)])
def test_merge_is_as_exact_as_the_base(
    dtype: torch.dtype, tolerance: float, tiny_base: Callable[..., Base], randomise: Trained, ids: torch.Tensor
) -> None:
    base = tiny_base("gpt2", dtype=dtype)
    model = AdaptedModel(base, [randomise(create_adapter(base))])
    with torch.no_grad():
        live = model(input_ids=ids).logits
        model.merge("default")
        merged = model(input_ids=ids).logits
    assert merged.dtype == dtype
    assert (merged - live).norm() <= tolerance * live.norm()
    assert base.model.dtype == dtype


def test_merging_into_tied_weights_is_refused_and_changes_nothing(
    tiny_base: Callable[..., Base], randomise: Trained
) -> None:
    base = tiny_base("llama", tie_word_embeddings=True)
    model = AdaptedModel(base, [randomise(create_adapter(base, target_modules=("q_proj", "lm_head")))])
    before = {n: t.clone() for n, t in base.model.state_dict().items()}
    with pytest.raises(
        ConfigError, match=r"'lm_head' shares its weight with model\.embed_tokens\.weight: merging would"
    ):
        model.merge("default")
    assert all(torch.equal(t, before[n]) for n, t in base.model.state_dict().items())
    assert model.active == ("default",)


def test_tensors_and_loading_them(tiny_base: Callable[..., Base], randomise: Trained) -> None:
    base = tiny_base()
    adapter = create_adapter(base, r=2, target_modules=("q_proj",))
    tensors = {
        n: t.clone() for n, t in randomise(create_adapter(base, r=2, target_modules=("q_proj",))).tensors().items()
    }
    assert sorted(tensors) == [f"model.layers.{i}.self_attn.q_proj.lora_{x}" for i in range(3) for x in "AB"]
    adapter.load_tensors({n: t.double() for n, t in tensors.items()})
    assert all(torch.equal(t, tensors[n]) and t.dtype == torch.float32 for n, t in adapter.tensors().items())
    with pytest.raises(AdapterFormatError, match=r"do not fit method lora on this base \(1 problems\): .* is missing"):
        adapter.load_tensors({n: t for n, t in tensors.items() if "layers.2.self_attn.q_proj.lora_B" not in n})
    spoilt = {n: t.clone().fill_(torch.nan) if "layers.1" in n else t + 1 for n, t in tensors.items()}
    with pytest.raises(AdapterFormatError, match=r"2 problems\): .*lora_A' holds NaN"):
        adapter.load_tensors(spoilt)
    assert all(torch.equal(t, tensors[n]) for n, t in adapter.tensors().items()), "a refused load changes nothing"


def test_seeds_and_the_meta_device(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    one, same, other = (create_adapter(base, seed=seed).tensors() for seed in (1, 1, 2))
    assert all(torch.equal(t, same[n]) for n, t in one.items())
    assert any(not torch.equal(t, other[n]) for n, t in one.items())
    adapter = build_adapter("lora", {"r": 4}, tiny_base().model.to("meta"), base.structure)
    assert adapter.num_parameters() == sum(
        4 * (x.in_features + x.out_features) for x in base.structure.select("all-linear")
    )


def test_bad_settings_name_the_nearest(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    with pytest.raises(ConfigError, match=r"unknown method 'lroa'; the methods are .*Did you mean 'lora'\?"):
        create_adapter(base, "lroa")
    with pytest.raises(ConfigError, match=r"method lora: unknown key 'lora_alfa'\. Did you mean 'lora_alpha'\?"):
        create_adapter(base, lora_alfa=3)
    with pytest.raises(TargetError, match="'q_porj' matches no linear"):
        create_adapter(base, target_modules=("q_porj",))


def test_parameter_summary_counts_as_everybody_does(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    size = sum(p.numel() for p in base.model.parameters())
    for method, total in (("lora", None), ("full", size)):
        adapter = create_adapter(base, method)
        adapter.set_trainable(True)
        own = adapter.num_parameters()
        model = AdaptedModel(base, [adapter])
        whole = total or size + own
        expected = f"trainable params: {own:,} || all params: {whole:,} || trainable%: {100 * own / whole:.4f}"
        assert model.parameter_summary() == expected
        model.detach("default")


def test_modes_reach_the_adapters(tiny_base: Callable[..., Base], randomise: Trained, ids: torch.Tensor) -> None:
    base = tiny_base()
    model = AdaptedModel(base)
    model.train()
    adapter = randomise(create_adapter(base, lora_dropout=0.5))
    model.attach(adapter)
    assert all(slot.training for slot in adapter.slots.values())
    with torch.no_grad():
        assert not torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
        model.eval()
        assert torch.equal(model(input_ids=ids).logits, model(input_ids=ids).logits)
    assert model.device == torch.device("cpu")
    assert model.tokenizer is base.tokenizer


@pytest.mark.parametrize("rows", [1, 3, 4])
def test_a_batch_has_the_rows_that_are_routed(
    rows: int, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base = tiny_base()
    model = AdaptedModel(base, [create_adapter(base, "lora", name=name) for name in "ab"])
    with model.route(["a", "b"]):
        assert len(model(input_ids=token_ids(2, 5)).logits) == 2
        with pytest.raises(ConfigError, match=f"names the adapters of 2 rows, and the batch has {rows}"):
            model(input_ids=token_ids(rows, 5))
