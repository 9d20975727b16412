"""Modules learned whole beside a method (``modules_to_save``): the same promises, for every method."""

from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file

from petune import methods
from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.checkpoint.peft import layout_of
from petune.errors import ConfigError
from petune.sites.head import LabelLoss

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"),
    # PEFT looks for the base on the hub when it saves, and says that a tied head is learned apart.
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
    pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True.:UserWarning"),
]

WHOLE = {
    "llama": ("lm_head", "model.norm"),
    "gpt2": ("lm_head", "wpe", "ln_1"),
    "gpt_neox": ("lm_head", "embed_in"),
}


@pytest.fixture
def names(architecture: str) -> tuple[str, ...]:
    """Modules of the base to learn whole."""
    return WHOLE[architecture]


@pytest.fixture
def ids(token_ids: Callable[..., torch.Tensor]) -> torch.Tensor:
    return token_ids(3, 9)


@torch.no_grad()
def test_copies_change_nothing_at_the_start(
    base: Base, sharing_method: str, names: tuple[str, ...], ids: torch.Tensor
) -> None:
    plain = AdaptedModel(base, [create_adapter(base, sharing_method)])
    expected = plain(input_ids=ids).logits
    plain.detach("default")
    model = AdaptedModel(base, [create_adapter(base, sharing_method, modules_to_save=names)])
    assert torch.equal(model(input_ids=ids).logits, expected)


def test_they_train_and_the_base_stays(
    base: Base, sharing_method: str, names: tuple[str, ...], ids: torch.Tensor
) -> None:
    frozen = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    adapter = create_adapter(base, sharing_method, modules_to_save=names)
    adapter.set_trainable(True)
    model = AdaptedModel(base, [adapter])
    LabelLoss(model.model, model.plugged_into)({"input_ids": ids}, ids, model).sum().backward()
    for slot in adapter.replacements.values():
        for parameter in slot.parameters():
            assert parameter.grad is not None
            assert parameter.grad.any()
    model.detach("default")
    assert all(torch.equal(tensor, frozen[name]) for name, tensor in base.model.state_dict().items())


@torch.no_grad()
def test_rows_keep_to_their_own_copies(
    base: Base,
    sharing_method: str,
    names: tuple[str, ...],
    ids: torch.Tensor,
    trained: Callable[..., AdaptedModel],
    randomise: Callable[..., Adapter],
) -> None:
    model = trained(base, sharing_method, modules_to_save=names)
    other = create_adapter(base, sharing_method, name="other", modules_to_save=names[:1])
    model.attach(randomise(other, seed=5), active=False)
    rows = ("default", None, "other")
    with model.route(rows):
        mixed = model(input_ids=ids).logits
    for i, row in enumerate(rows):
        model.activate(*([row] if row else []))
        torch.testing.assert_close(model(input_ids=ids[i : i + 1]).logits[0], mixed[i], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_files_bring_them_back_and_peft_reads_them(
    base: Base,
    architecture: str,
    sharing_method: str,
    names: tuple[str, ...],
    ids: torch.Tensor,
    tmp_path: Path,
    tiny_base: Callable[..., Base],
    trained: Callable[..., AdaptedModel],
) -> None:
    if "embeddings" in methods.get(sharing_method).sites:  # under a soft prompt PEFT reads tokens past a copy
        names = tuple(name for name in names if name != "embed_in")
    model = trained(base, sharing_method, modules_to_save=names)
    live = model(input_ids=ids).logits
    folder = save_adapter(model, tmp_path / "adapter")
    again = tiny_base(architecture)
    assert torch.equal(AdaptedModel(again, [load_adapter(folder, again)])(input_ids=ids).logits, live)
    if layout_of(model.adapter("default"), base.structure) is None:
        return
    theirs = peft.PeftModel.from_pretrained(tiny_base(architecture).model, folder).eval()
    logits = theirs(input_ids=ids).logits[:, -ids.shape[1] :]  # PEFT returns those of a soft prompt too
    torch.testing.assert_close(logits, live, rtol=1e-4, atol=1e-4)

    theirs.save_pretrained(tmp_path / "theirs")
    saved = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    assert saved.keys() == load_file(folder / "adapter_model.safetensors").keys()
    again = tiny_base(architecture)
    adapter = load_adapter(tmp_path / "theirs", again)
    torch.testing.assert_close(AdaptedModel(again, [adapter])(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_merging_takes_them_along(
    architecture: str, tiny_base: Callable[..., Base], ids: torch.Tensor, trained: Callable[..., AdaptedModel]
) -> None:
    base = tiny_base(architecture, tie_word_embeddings=False)
    before = {name: tensor.clone() for name, tensor in base.model.state_dict().items()}
    model = trained(base, "lora", modules_to_save=WHOLE[architecture])
    live = model(input_ids=ids).logits
    model.merge("default")
    torch.testing.assert_close(model(input_ids=ids).logits, live, rtol=1e-4, atol=1e-4)
    model.detach("default")
    assert all(torch.equal(tensor, before[name]) for name, tensor in base.model.state_dict().items())


@torch.no_grad()
def test_what_is_learned_whole_is_not_adapted_besides(
    tiny_base: Callable[..., Base], ids: torch.Tensor, trained: Callable[..., AdaptedModel]
) -> None:
    base = tiny_base()
    model = trained(base, "lora", modules_to_save=("o_proj",))
    kinds = {path.rpartition(".")[2]: type(slot).__name__ for path, slot in model.adapter("default").slots.items()}
    assert kinds["o_proj"] == "Replacement"
    assert kinds["q_proj"] == "LoRASlot"


def test_methods_that_learn_the_base_s_own_weights_refuse_copies(tiny_base: Callable[..., Base]) -> None:
    alone = [name for name in methods.names() if not methods.get(name).shares_batch]
    assert alone
    for name in alone:
        with pytest.raises(ConfigError, match=r"modules_to_save: .* learns the base's own parameters"):
            create_adapter(tiny_base(), name, modules_to_save=("lm_head",))


def test_methods_that_train_nothing_refuse_them_too(tiny_base: Callable[..., Base]) -> None:
    idle = [name for name in methods.names() if not methods.get(name).trains]
    assert idle
    for name in idle:
        for options in ({"modules_to_save": ("lm_head",)}, {"new_tokens": ("<x>",)}, {"trainable_token_indices": (3,)}):
            with pytest.raises(ConfigError, match=f"{next(iter(options))}: .* trains nothing"):
                create_adapter(tiny_base(), name, **options)
