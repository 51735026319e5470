"""Products in csrc: every instruction set, type, odd shape and number of rows against torch in double precision.

Sums are in float32, one after the other: their error grows with the root of the number of inputs. Stated tolerance:
4e-6 sqrt(inputs) of the size of one product, which is 1 here.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trtdisagg.cache.native import extension

SHAPES = [(1, 1), (5, 7), (64, 64), (130, 101), (31, 576), (200, 1537)]
ROWS = [1, 2, 3, 4, 5, 6, 7, 12, 13, 24, 25, 70, 97, 200]

csrc = extension()
pytestmark = pytest.mark.skipif(csrc is None, reason="the C++ extension is not built")
ISAS = csrc.isas() if csrc else []


def product(matrix: object, x: Tensor, num_outputs: int) -> Tensor:
    out = torch.full((x.shape[0], num_outputs), float("nan"))
    matrix.run(x.data_ptr(), out.data_ptr(), x.shape[0])
    return out


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_equal_to_double_and_no_row_depends_on_the_others(isa: str, dtype: torch.dtype, num_threads: int) -> None:
    workers = csrc.Workers(num_threads)
    for num_outputs, num_inputs in SHAPES:
        weight, bias = torch.randn(num_outputs, num_inputs).to(dtype), torch.randn(num_outputs)
        packed = weight.clone()
        matrix = csrc.Matrix(packed, bias, workers, isa)
        x = torch.randn(max(ROWS), num_inputs)
        whole = product(matrix, x, num_outputs)
        expected = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
        torch.testing.assert_close(whole.double(), expected, atol=4e-6 * num_inputs**0.5, rtol=1e-5)
        for num_rows in ROWS:
            assert torch.equal(product(matrix, x[:num_rows].clone(), num_outputs), whole[:num_rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_of_the_weight_comes_back_as_it_was(dtype: torch.dtype) -> None:
    for num_outputs, num_inputs in SHAPES:
        weight = torch.randn(num_outputs, num_inputs).to(dtype)
        matrix = csrc.Matrix(weight.clone(), None, csrc.Workers(1))
        row = torch.empty(num_inputs)
        for output in range(num_outputs):
            matrix.row(output, row.data_ptr())
            assert torch.equal(row, weight[output].float())


def test_what_no_matrix_can_be_made_of_is_refused() -> None:
    workers = csrc.Workers(1)
    with pytest.raises(ValueError, match="neither bfloat16 nor float32"):
        csrc.Matrix(torch.ones(4, 4, dtype=torch.float16), None, workers)
    with pytest.raises(ValueError, match="a bias must have a value for each output"):
        csrc.Matrix(torch.ones(4, 4), torch.ones(3), workers)
    with pytest.raises(ValueError, match="no kernels for mmx"):
        csrc.Matrix(torch.ones(4, 4), None, workers, "mmx")
    with pytest.raises(ValueError, match="no such output"):
        csrc.Matrix(torch.ones(4, 4), None, workers).row(4, 0)
