"""Checkpoints remember the rows and the base that they rest on."""

from collections.abc import Callable
from typing import Any

import pytest

from petune.backbone.base import Base
from petune.data.encoding import Encoded
from petune.errors import CheckpointError
from petune.training.grounds import Grounds, rows_digest

ROW = Encoded([1, 2, 3], [-100, 2, 3], "rows.jsonl:1")


def test_digest_of_rows() -> None:
    base = rows_digest([ROW, ROW])
    assert base == rows_digest([Encoded([1, 2, 3], [-100, 2, 3], "b:7"), ROW])
    others = [[ROW], [Encoded([1, 2, 4], [-100, 2, 3], ""), ROW], [Encoded([1, 2, 3], [1, 2, 3], ""), ROW]]
    assert len({base, *map(rows_digest, others)}) == 4


def test_the_same_again_and_what_an_earlier_version_wrote(tiny_base: Callable[..., Base]) -> None:
    state = Grounds(tiny_base(), [ROW], [ROW, ROW]).state()
    Grounds(tiny_base(), [ROW], [ROW, ROW]).require_same(state, 3)
    Grounds(tiny_base("gpt2"), [ROW], [ROW]).require_same({"rows": state["rows"]}, 3)


@pytest.mark.parametrize(
    ("architecture", "settings", "rows", "judged_by", "message"),
    [
        ("llama", {}, [ROW, ROW], [ROW], r"step 3 was made with other rows than those that rows\.jsonl holds now"),
        ("llama", {}, [ROW], [ROW, ROW], r"with other validation rows than those that rows\.jsonl holds now; bring"),
        ("llama", {}, [ROW], [], r"with other validation rows than those that the recipe holds now"),
        ("llama", {"rms_norm_eps": 0.5}, [ROW], [ROW], r"on another base than 'tiny-llama' is now \(the configuration"),
        ("gpt2", {}, [ROW], [ROW], r"on another base than 'tiny-gpt2' is now \(model type: llama expected, gpt2 found"),
    ],
)
def test_others_are_refused(
    architecture: str,
    settings: dict[str, Any],
    rows: list[Encoded],
    judged_by: list[Encoded],
    message: str,
    tiny_base: Callable[..., Base],
) -> None:
    state = Grounds(tiny_base(), [ROW], [ROW]).state()
    with pytest.raises(CheckpointError, match=message):
        Grounds(tiny_base(architecture, **settings), rows, judged_by).require_same(state, 3)
