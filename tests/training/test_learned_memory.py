"""Bytes of what is learned, and the most that a step holds."""

import torch

from petune.training.learned_memory import learned_bytes, most_above


def test_a_learned_number_is_four_of_fp32() -> None:
    parameter = torch.nn.Parameter(torch.zeros(10))
    parameter.grad = torch.ones(10)
    optimizer = torch.optim.AdamW([parameter])
    optimizer.step()
    moments = [t for t in optimizer.state[parameter].values() if t.shape == parameter.shape]
    assert learned_bytes(10) == sum(t.nbytes for t in (parameter, parameter.grad, *moments))


def test_gradients_come_when_activations_go() -> None:
    assert most_above(100, 1000, accumulates=False) == 200 + 1000
    assert most_above(100, 30, accumulates=False) == 200 + 100
    assert most_above(100, 1000, accumulates=True) == 200 + 1100
