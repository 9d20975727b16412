"""New tokens in a tokenizer and in the tables of its model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from petune.adapted_model import AdaptedModel
from petune.adapter import create_adapter
from petune.backbone.base import Base
from petune.backbone.vocabulary import read_tokens
from petune.errors import BaseModelError, ConfigError


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom"])
def test_old_rows_stay_and_new_ones_are_means_of_their_pieces(
    architecture: str, tiny_base: Callable[..., Base], token_ids: Callable[..., torch.Tensor]
) -> None:
    base, ids = tiny_base(architecture, vocab_size=260), token_ids(2, 6) % 250
    tables = (base.model.get_input_embeddings(), base.model.get_output_embeddings())
    before, tied = [table.weight.clone() for table in tables], tables[0].weight is tables[1].weight
    logits, fingerprint = base.model(input_ids=ids).logits, base.fingerprint
    assert len(base.tokenizer) == 259
    pieces = base.tokenizer("abc", add_special_tokens=False)["input_ids"]
    assert len(pieces) == 3

    found = base.add_tokens(("abc", "日本", "<new>"))

    assert found == (259, 260, 261)  # the first into a row to spare
    assert base.add_tokens(("<new>", "abc")) == (261, 259)
    for table, old in zip(tables, before, strict=True):
        assert table.weight.shape[0] == 262
        assert torch.equal(table.weight[:259], old[:259])
        torch.testing.assert_close(table.weight[259], old[pieces].mean(0))
        assert not table.weight.requires_grad
    assert (tables[0].weight is tables[1].weight) == tied
    assert tables[0].num_embeddings == tables[1].out_features == base.model.config.vocab_size == 262
    assert base.model.get_input_embeddings() is tables[0]
    torch.testing.assert_close(base.model(input_ids=ids).logits[..., :259], logits[..., :259])
    assert base.fingerprint == fingerprint
    assert base.tokenizer("xabcx")["input_ids"][1] == 259
    assert base.tokenizer.decode([261]) == "<new>"
    sizes = {table.path: table.num_embeddings for table in base.structure.embeddings}
    assert 262 in sizes.values()
    assert base.structure.linear("lm_head").out_features == 262


def test_rows_to_spare_are_used_first(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    weight = base.model.lm_head.weight
    assert base.add_tokens(("abc",)) == (259,)
    assert base.model.lm_head.weight is weight


def test_what_cannot_be_added_is_refused(tiny_base: Callable[..., Base], tmp_path: Path) -> None:
    base = tiny_base()
    with pytest.raises(ConfigError, match="new_tokens: the tokenizer has 'a' already"):
        base.add_tokens(("abc", "a"))
    assert not base.new_tokens
    for tokens, problem in ((("x1", "x1"), "'x1' is named twice"), ((" ",), "' ' is empty")):
        with pytest.raises(ConfigError, match=f"new_tokens: {problem}"):
            base.add_tokens(tokens)
    with pytest.raises(ConfigError, match=r"no.txt' cannot be read .*; give a text file with one token a line"):
        read_tokens(str(tmp_path / "no.txt"))
    model = AdaptedModel(base, [create_adapter(base, target_modules="lm_head")])
    with pytest.raises(ConfigError, match="adapters are plugged into the embeddings or the head; detach them first"):
        base.add_tokens(("abc",))
    model.detach("default")


def test_a_model_with_other_tables_is_refused(tiny_base: Callable[..., Base]) -> None:
    base = tiny_base()
    base.model.token_scale = nn.Parameter(torch.zeros(1, 288))
    with pytest.raises(BaseModelError, match="also has an entry for each token in 'token_scale'"):
        base.add_tokens(tuple(f"<{i}>" for i in range(30)))
    del base.model.token_scale
    base.model.lm_head = nn.Linear(32, 5)  # type: ignore[assignment]
    with pytest.raises(BaseModelError, match="has no plain embeddings and head of one size"):
        base.add_tokens(("abc",))


def test_a_file_holds_one_token_a_line(tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_text("你好\n\n世界\n", encoding="utf-8")
    assert read_tokens(str(tmp_path / "tokens.txt")) == ("你好", "世界")
    assert read_tokens(["a b"]) == ("a b",)
