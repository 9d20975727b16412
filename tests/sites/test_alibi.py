"""The bias of virtual tokens, against the model's own for a longer row."""

import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from petune.sites.alibi import bias_in_front


@pytest.mark.parametrize("heads", [4, 6])  # slopes of heads that are no power of two are made otherwise
def test_places_before_the_first_token(heads: int) -> None:
    longer = build_alibi_tensor(torch.ones(1, 9), heads, torch.float32)[:, 0]
    expected = longer[:, :4] - longer[:, 4:5]
    actual = bias_in_front(build_alibi_tensor, heads, 4, torch.zeros(()))
    assert actual.shape == (1, heads, 1, 4)
    torch.testing.assert_close(actual[0, :, 0], expected)
