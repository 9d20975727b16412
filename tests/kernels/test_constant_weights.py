import threading

import torch

from petune.kernels.constant_weights import constant_weights, in_precision, once


def test_weights_are_cast_once_in_the_block_and_anew_outside() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 4))
    with torch.inference_mode(), constant_weights():
        first = in_precision(weight, torch.bfloat16)
        assert in_precision(weight, torch.bfloat16) is first
        assert torch.equal(first, weight.to(torch.bfloat16))
        assert in_precision(weight, torch.float16).dtype == torch.float16
        assert in_precision(weight, torch.float32) is weight
    with torch.no_grad():
        weight.add_(1)
        assert torch.equal(in_precision(weight, torch.bfloat16), weight.to(torch.bfloat16))
        with constant_weights():
            assert torch.equal(in_precision(weight, torch.bfloat16), weight.to(torch.bfloat16))


def test_gradients_pass_a_cast_in_the_block() -> None:
    weight = torch.nn.Parameter(torch.randn(3))
    with constant_weights():
        in_precision(weight, torch.bfloat16).sum().backward()
    assert weight.grad is not None


def test_another_thread_is_not_in_the_block() -> None:
    weight, seen = torch.randn(3), []
    with torch.no_grad(), constant_weights():
        first = in_precision(weight, torch.bfloat16)
        thread = threading.Thread(target=lambda: seen.append(in_precision(weight, torch.bfloat16)))
        thread.start()
        thread.join()
    assert seen[0] is not first


def test_what_is_made_of_weights_is_made_once_for_each_form() -> None:
    a, b, calls = torch.randn(2), torch.randn(2), []

    def total() -> torch.Tensor:
        calls.append(None)
        return a + b

    with torch.no_grad():
        assert once((a, b), "total", total) is None, "outside a block, weights may change"
        with constant_weights():
            first = once((a, b), "total", total)
            assert first is not None
            assert torch.equal(first, a + b)
            assert once((a, b), "total", total) is first
            assert once((b, a), "total", total) is not first
            assert once((a, b), "another", total) is not first
    assert len(calls) == 3
