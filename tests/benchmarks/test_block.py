"""The timing of a block's parts runs and compares the same things."""

import block
import pytest
import torch


def test_every_part_is_timed_in_both_precisions(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, size in (("WIDTH", 24), ("INNER", 32), ("HEADS", 3), ("GROUPS", 1), ("HEAD", 8), ("LENGTH", 4)):
        monkeypatch.setattr(block, name, size)
    threads = str(torch.get_num_threads())
    assert block.main(["--tokens", "8", "--layers", "1", "--repeats", "1", "--threads", threads]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "float" in line]
    assert [row[1] for row in rows] == 2 * [
        "norm", "gated product", "rotary embedding", "dropout", "the model", "an encoder with dropout",
    ]  # fmt: skip
    assert all(float(row[3]) > 0 for row in rows)


def test_both_sides_compute_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.Tensor] = []
    monkeypatch.setattr(block, "LENGTH", 4)
    make = torch.Tensor.requires_grad_
    monkeypatch.setattr(torch.Tensor, "requires_grad_", lambda t, *flag: (made.append(t), make(t, *flag))[1])
    for part in (block.norm, block.gated, block.rotary):
        made.clear()
        sides = part(torch.float32, 2)
        inputs = [t for t in made if t.requires_grad]
        assert inputs
        found = []
        for side in sides:
            side()
            found.append([t.grad.clone() for t in inputs if t.grad is not None])
            for tensor in inputs:
                tensor.grad = None
        for plain, own in zip(*found, strict=True):
            torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-5)
