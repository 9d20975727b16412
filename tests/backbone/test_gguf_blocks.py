import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from petune.backbone.gguf_blocks import GGUF_FORMATS


@pytest.mark.parametrize("name", GGUF_FORMATS)
def test_numbers_are_those_of_the_reference_to_the_last_bit(name: str) -> None:
    form, kind = GGUF_FORMATS[name], GGMLQuantizationType[name]
    assert (form.values, form.size) == GGML_QUANT_SIZES[kind]
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (64, form.size), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = dequantize(blocks, kind)
    finite = np.isfinite(expected).all(1)  # random bytes may mean an infinite scale
    assert finite.sum() > 50
    numbers = form.decode(torch.from_numpy(blocks[finite]))
    assert numbers.shape == (finite.sum(), form.values)
    assert numbers.dtype == torch.float32
    assert torch.equal(numbers, torch.from_numpy(expected[finite]))
