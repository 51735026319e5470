"""The parts of the plain reference that no family of transformers shows. (All others: test_models.py.)"""

from __future__ import annotations

import torch

from trtdisagg.engine.models.decoder import Linear
from trtdisagg.engine.torch_decoder import dequantized, multiply


def test_quantized_weights_are_numbers_times_the_scale_of_their_group() -> None:
    numbers = torch.randint(-127, 128, (5, 12), dtype=torch.int8)
    scales, bias, x = torch.rand(5, 3), torch.randn(5), torch.randn(4, 12)
    linear = Linear(weight=numbers, scales=scales, bias=bias)
    expected = torch.stack([numbers[:, i] * scales[:, i // 4] for i in range(12)], dim=1)
    assert torch.equal(dequantized(linear), expected)
    torch.testing.assert_close(multiply(x, linear), x @ expected.t() + bias)
