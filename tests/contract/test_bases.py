"""Every method on every kind of base: it works, or it is refused with the words that the documentation gives.

The table in docs/bases.md is made from configurations alone; here each of its cells is tried on a small random model.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import AutoTokenizer

from petune import methods
from petune.adapted_model import AdaptedModel
from petune.adapter import Adapter, create_adapter
from petune.backbone.base import Base
from petune.checkpoint.folder import load_adapter, save_adapter
from petune.errors import ConfigError, PetuneError

ROOT = Path(__file__).parents[2]


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("regenerate_docs", ROOT / "scripts" / "regenerate_docs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DOCS = _script()
NEW = tuple(f"<{i}>" for i in range(35))  # more tokens than the tables have rows to spare
TRAINING = [name for name in methods.names() if methods.get(name).trains]
REFUSALS = {(base, name): DOCS.refusal(base, name) for base in DOCS.BASES for name in TRAINING}
WORKING = [pair for pair, reason in REFUSALS.items() if reason is None]


def call(model: AdaptedModel, ids: torch.Tensor, lengths: list[int]) -> list[torch.Tensor]:
    """Return the logits of each row at its own tokens; rows are padded on the right."""
    mask = (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long()
    batch = {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}
    inputs = model.insert_virtual_tokens(batch)
    if model.base.task == "seq2seq_lm":
        return list(model(**inputs, decoder_input_ids=ids[:, :4]).logits)
    logits = model(**inputs).logits
    return [row[real.bool()] for row, real in zip(logits, inputs["attention_mask"], strict=True)]


@pytest.mark.parametrize(("architecture", "method"), WORKING)
def test_a_method_that_works(
    architecture: str,
    method: str,
    tiny_base: Callable[..., Base],
    randomise: Callable[..., Adapter],
    token_ids: Callable[..., torch.Tensor],
) -> None:
    base, ids, lengths = tiny_base(architecture), token_ids(3, 9), [9, 9, 6]
    with torch.no_grad():
        bare = call(AdaptedModel(base), ids, lengths)
    adapter = randomise(create_adapter(base, method))
    adapter.set_trainable(True)
    model = AdaptedModel(base, [adapter])
    together = call(model, ids, lengths)
    assert not any(torch.allclose(ours[:4], plain[:4], atol=1e-4) for ours, plain in zip(together, bare, strict=True))
    for row, length in enumerate(lengths):
        (alone,) = call(model, ids[row : row + 1, :length], [length])
        torch.testing.assert_close(alone, together[row], rtol=1e-3, atol=1e-3)
    generator = torch.Generator().manual_seed(0)
    sum((row * torch.randn(row.shape, generator=generator)).sum() for row in together).backward()
    idle = [name for name, parameter in adapter.named_masters() if parameter.grad is None or not parameter.grad.any()]
    assert idle == []
    model.detach("default")
    with torch.no_grad():
        assert all(map(torch.equal, call(AdaptedModel(base), ids, lengths), bare))


@torch.no_grad()
@pytest.mark.parametrize(("architecture", "method"), WORKING)
def test_files_bring_a_method_and_new_tokens_back(
    architecture: str, method: str, tmp_path: Path, tiny_base: Callable[..., Base], randomise: Callable[..., Adapter]
) -> None:
    base = tiny_base(architecture)
    model = AdaptedModel(base, [randomise(create_adapter(base, method, new_tokens=NEW))])
    first, last = base.tokenizer.convert_tokens_to_ids([NEW[0], NEW[-1]])
    ids, lengths = torch.tensor([[5, first, 7, last, 8], [first, 9, last, 4, 5]]), [5, 4]
    live = call(model, ids, lengths)
    assert {row.shape[-1] for row in live} == {last + 1}
    folder = save_adapter(model, tmp_path)
    assert AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(NEW[-1]) == last

    again = tiny_base(architecture)
    loaded = call(AdaptedModel(again, [load_adapter(folder, again)]), ids, lengths)
    assert again.tokenizer.convert_tokens_to_ids(NEW[-1]) == last
    for row, expected in zip(loaded, live, strict=True):
        torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("architecture", "method"), sorted(REFUSALS.keys() - set(WORKING)))
def test_a_method_that_is_refused(architecture: str, method: str, tiny_base: Callable[..., Base]) -> None:
    with pytest.raises(PetuneError) as refusal:
        create_adapter(tiny_base(architecture), method)
    assert str(refusal.value) == REFUSALS[architecture, method]


def test_an_infix_is_for_what_writes_an_answer(tiny_base: Callable[..., Base]) -> None:
    for base in (tiny_base("bert"), tiny_base("t5")):
        with pytest.raises(ConfigError, match="placement is infix, which needs a decoder"):
            create_adapter(base, "prefix_tuning", placement="infix")
    base = tiny_base("llama", task="token_classification", labels=("a", "b"))
    with pytest.raises(ConfigError, match="an infix stands before the answer that a decoder writes"):
        create_adapter(base, "prefix_tuning", placement="infix")
