"""What a GGUF file's bytes mean, as the gguf library says it."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from trtdisagg.engine.models.dequantize import dequantize, num_bytes

KINDS = [k for k in GGMLQuantizationType if k.name in vars(gguf.quants)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_any_bytes_are_the_numbers_of_the_library(kind: GGMLQuantizationType) -> None:
    values, size = GGML_QUANT_SIZES[kind]
    shape = (6, 4 * values)
    raw = np.random.default_rng(0).integers(0, 256, num_bytes(kind, shape), np.uint8)
    with np.errstate(all="ignore"):  # some scales are infinite
        expected = gguf.quants.dequantize(raw.reshape(6, -1), kind)
        ours = dequantize(torch.from_numpy(raw), kind, shape, torch.float32)
    assert len(raw) == 6 * 4 * size
    torch.testing.assert_close(ours.float(), torch.from_numpy(expected).float(), atol=0, rtol=0, equal_nan=True)


def test_plain_numbers_keep_their_precision() -> None:
    numbers = torch.randn(3, 5)
    for dtype, kind in ((torch.float32, "F32"), (torch.float16, "F16"), (torch.bfloat16, "BF16")):
        raw = numbers.to(dtype).view(torch.uint8).flatten()
        assert torch.equal(dequantize(raw, GGMLQuantizationType[kind], (3, 5), torch.bfloat16), numbers.to(dtype))


def test_a_tensor_of_many_tiles_in_another_type() -> None:
    numbers = torch.randn(1200, 512)
    kind = GGMLQuantizationType.Q8_0
    raw = torch.from_numpy(gguf.quants.quantize(numbers.numpy(), kind)).flatten()
    found = dequantize(raw, kind, (1200, 512), torch.bfloat16)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), numbers, atol=0.03, rtol=0.01)


@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q8_K, 999])
def test_a_kind_that_nobody_reads(kind: int) -> None:
    with pytest.raises(ValueError, match=r"999|Q8_K"):
        dequantize(torch.zeros(num_bytes(kind, (1, 256)), dtype=torch.uint8), kind, (1, 256), torch.float32)


def test_rows_that_end_within_a_block() -> None:
    with pytest.raises(ValueError, match="rows of 40 values are not made of blocks of 32"):
        num_bytes(GGMLQuantizationType.Q8_0, (2, 40))
