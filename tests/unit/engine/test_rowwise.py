"""Normalization and gated activation in C++ equal plain torch."""

from __future__ import annotations

import pytest
import torch

from trtdisagg.cache.native import extension
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.rowwise import NativeRowwise, TorchRowwise

pytestmark = pytest.mark.skipif(extension() is None, reason="the C++ extension is not built")

EPS = 1e-5


@pytest.fixture(params=[torch.float32, torch.bfloat16])
def native(request: pytest.FixtureRequest) -> NativeRowwise:
    backend = Backend(request.param, torch.device("cpu"), num_threads=2)
    backend.open()
    return NativeRowwise(backend)


def close(native: NativeRowwise) -> dict[str, float]:
    return {"atol": 2e-6, "rtol": 2e-6} if native._dtype == torch.float32 else {"atol": 0.01, "rtol": 0.01}


@pytest.mark.parametrize(("rows", "width"), [(1, 64), (3, 7), (50, 576), (400, 41)])
def test_norm(native: NativeRowwise, rows: int, width: int) -> None:
    x, delta, weight = (torch.randn(*s).to(native._dtype) for s in ((rows, width), (rows, width), (width,)))
    torch.testing.assert_close(native.norm(x, weight, EPS), TorchRowwise().norm(x, weight, EPS), **close(native))
    ours, theirs = x.clone(), x.clone()
    normed = native.norm(ours, weight, EPS, delta)
    torch.testing.assert_close(normed, TorchRowwise().norm(theirs, weight, EPS, delta), **close(native))
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("rows", "width"), [(1, 64), (3, 7), (50, 1536), (400, 41)])
def test_gate(native: NativeRowwise, rows: int, width: int) -> None:
    gate_up = (torch.randn(rows, 2 * width) * 4).to(native._dtype)
    torch.testing.assert_close(native.gate(gate_up), TorchRowwise().gate(gate_up), **close(native))


def test_gate_at_the_ends_of_the_range(native: NativeRowwise) -> None:
    gate = torch.tensor([[-1e30, -200.0, -88.0, -0.0, 0.0, 88.0, 200.0, 1e30]])
    gate_up = torch.cat([gate, torch.ones_like(gate)], dim=1).to(native._dtype)
    expected = torch.tensor([[0.0, 0, 0, 0, 0, 88, 200, 1e30]])
    torch.testing.assert_close(native.gate(gate_up).float(), expected, atol=1e-30, rtol=0.01)


def test_nan_stays_nan(native: NativeRowwise) -> None:
    x = torch.ones(2, 16).to(native._dtype)
    x[1, 3] = float("nan")
    normed = native.norm(x.clone(), x[0].clone(), EPS)
    assert normed.isnan().any(dim=1).tolist() == [False, True]
    assert native.gate(x).isnan().any(dim=1).tolist() == [False, True]
