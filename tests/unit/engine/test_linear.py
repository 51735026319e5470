"""Linear layers give the same whichever way is taken for the number of rows."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from trtdisagg.cache.native import extension
from trtdisagg.engine import backend as backend_module
from trtdisagg.engine import linear as linear_module
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.linear import Linear, Multiplier

SHAPES = [(1, 1), (5, 7), (64, 64), (130, 100), (31, 576)]
ROWS = [0, 1, 2, 3, 5, 6, 7, 12, 13, 24, 25, 70]


def multiplier(dtype: torch.dtype, *, num_threads: int = 1) -> Multiplier:
    backend = Backend(dtype, torch.device("cpu"), num_threads)
    backend.open()
    return Multiplier(backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_extension", [True, False])
@pytest.mark.parametrize("has_bfloat16_products", [True, False])
def test_equal_to_double(
    dtype: torch.dtype, has_extension: bool, has_bfloat16_products: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_extension:
        monkeypatch.setattr(backend_module, "extension", lambda: None)
    monkeypatch.setattr(linear_module, "_has_bfloat16_products", lambda: has_bfloat16_products)
    monkeypatch.setattr(linear_module, "_TILE_VALUES", 1000)
    shared = multiplier(dtype, num_threads=2)
    for num_outputs, num_inputs in SHAPES:
        weight = torch.randn(num_outputs, num_inputs).to(dtype)
        bias = torch.randn(num_outputs).to(dtype)
        for num_rows in ROWS:
            x = torch.randn(num_rows, num_inputs).to(dtype)
            tolerance = {"atol": 1e-4, "rtol": 1e-4} if dtype == torch.float32 else {"atol": 0.3, "rtol": 0.02}
            for b in (bias, None):
                expected = linear(x.double(), weight.double(), None if b is None else b.double())
                got = Linear(weight, b, shared)(x)
                assert got.dtype == dtype
                torch.testing.assert_close(got.double(), expected, **tolerance)
            logits = Linear(weight, None, shared, out_type=torch.float32)(x)
            torch.testing.assert_close(logits, linear(x.float(), weight.float()), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(extension() is None, reason="the C++ extension is not built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_instruction_set_and_thread_count_gives_the_same(dtype: torch.dtype) -> None:
    csrc = extension()
    weight, x = torch.randn(700, 300).to(dtype), torch.randn(17, 300).to(dtype)
    expected = linear(x.double(), weight.double())
    for isa in csrc.isas():
        for num_threads in (1, 3):
            out = torch.full((17, 700), float("nan")).to(dtype)
            small = csrc.SmallLinear(weight, csrc.Workers(num_threads), isa)
            for _ in range(5):
                small.run(x.data_ptr(), out.data_ptr(), 17)
            torch.testing.assert_close(
                out.double(), expected, atol=1e-3, rtol=1e-5 if dtype == torch.float32 else 0.005
            )


def test_a_weight_of_another_type_is_refused() -> None:
    if (csrc := extension()) is None:
        pytest.skip("the C++ extension is not built")
    with pytest.raises(ValueError, match="neither bfloat16 nor float32"):
        csrc.SmallLinear(torch.ones(4, 4, dtype=torch.float16), csrc.Workers(1))
    with pytest.raises(ValueError, match="no kernels for mmx"):
        csrc.SmallLinear(torch.ones(4, 4), csrc.Workers(1), "mmx")


def test_a_long_product_is_cut_into_rows_and_shows_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_module, "_MAX_PRODUCTS", 64 * 31 * 576)
    shared = multiplier(torch.float32)
    weight, bias = torch.randn(31, 576), torch.randn(31)
    x = torch.randn(64 * 3 + 5, 576)
    before = shared.backend.progress.num_ticks
    torch.testing.assert_close(Linear(weight, bias, shared)(x), linear(x, weight, bias))
    assert shared.backend.progress.num_ticks - before == 4 + 1
