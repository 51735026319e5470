"""int8 weights are near what they were, and a model with them computes what its numbers say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import tiny_model
from helpers.tiny_runner import drive, kv_shape

from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.models.decoder import Linear, Mlp
from trtdisagg.engine.models.load import load_decoder
from trtdisagg.engine.quantize import quantize
from trtdisagg.engine.step import Step
from trtdisagg.engine.torch_decoder import TorchDecoder, dequantized
from trtdisagg.text.dimensions import read_dimensions
from trtdisagg.text.model_files import files_at


@pytest.mark.parametrize(("num_inputs", "group"), [(576, 64), (96, 32), (16, 16)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_weight_is_within_half_a_scale(num_inputs: int, group: int, dtype: torch.dtype) -> None:
    weight = torch.randn(3000, num_inputs).to(dtype)
    weight[5, :group] = 0
    weight[6] *= 1000
    linear = quantize(Linear(weight=weight, bias=torch.ones(3000)))
    assert linear.weight.dtype == torch.int8
    assert linear.weight.shape == weight.shape
    assert linear.scales is not None
    assert linear.scales.shape == (3000, num_inputs // group)
    assert linear.bias is not None
    error = (dequantized(linear) - weight.float()).abs()
    assert (error <= 0.501 * linear.scales.repeat_interleave(group, dim=1)).all()
    assert not dequantized(linear)[5, :group].any()
    assert (linear.weight.abs().unflatten(1, (-1, group)).amax(-1)[6] == 127).all()


def test_inputs_that_form_no_groups_stay_as_they_are() -> None:
    linear = Linear(weight=torch.randn(4, 30))
    assert quantize(linear) is linear


def test_a_model_computes_what_its_numbers_say(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "model")
    dims = read_dimensions(files_at(path))
    backend = Backend(torch.float32, torch.device("cpu"))
    decoder = load_decoder(str(path), dims, backend, num_positions=64, quantization="int8")
    first = decoder.layers[0]
    assert isinstance(first.mlp, Mlp)
    linears = (first.qkv, first.o, first.mlp.up, first.mlp.down, decoder.lm_head)
    assert all(linear.weight.dtype == torch.int8 for linear in linears)
    assert decoder.embedding.dtype == torch.float32
    with drive(path, quantization="int8") as driver, KvPool(kv_shape(dims, 8), 64) as pool:
        chunk = driver.chunk(driver.add(), range(40), num_logits=40)
        got = driver.run(chunk)
        torch.testing.assert_close(got, TorchDecoder(decoder, backend, pool).run(Step([chunk])), atol=1e-3, rtol=1e-3)
    with drive(path) as driver:
        unquantized = driver.run(chunk)
    assert 1e-4 < (got - unquantized).abs().mean() < 0.05
