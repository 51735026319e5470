"""Products in csrc: every instruction set, type, odd shape and number of rows against torch in double precision.

Sums are in float32, one after the other: their error grows with the root of the number of inputs. Stated tolerance:
4e-6 sqrt(inputs) of the size of one product, which is 1 here. With int8 weights x is rounded to 16 bits: 1e-4 of it.
Where pairs of bfloat16 are multiplied x is rounded to bfloat16, and the result is that of the rounded x as closely.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trtdisagg.cache.native import extension

SHAPES = [(1, 1), (5, 7), (64, 64), (130, 101), (31, 576), (200, 1537)]
INT8_SHAPES = [(1, 4, 4), (5, 8, 4), (64, 64, 64), (130, 96, 32), (31, 576, 64), (20, 1024, 512)]
ROWS = [1, 2, 3, 4, 5, 6, 7, 12, 13, 24, 25, 70, 97, 200]

csrc = extension()
pytestmark = pytest.mark.skipif(csrc is None, reason="the C++ extension is not built")
ISAS = csrc.isas() if csrc else []
PAIRS = "avx512bf16"
ISAS_OF_PAIRS = ["emulated_bf16", *(isa for isa in ISAS if isa == PAIRS)]
FLOATS = [
    (isa, dtype) for isa in ISAS for dtype in (torch.float32, torch.bfloat16) if (isa, dtype) != (PAIRS, torch.bfloat16)
]
ROWS_UNROUNDED = 8  # kRowsUnrounded of linear.h


def int8_weight(num_outputs: int, num_inputs: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """
    :return: numbers, scales, and what they mean in float32
    """
    weight = torch.randint(-127, 128, (num_outputs, num_inputs), dtype=torch.int8)
    scales = (torch.rand(num_outputs, num_inputs // group) + 0.5) / 127
    wide = (weight.float().unflatten(1, (-1, group)) * scales[:, :, None]).flatten(1)
    return weight, scales, wide


def product(matrix: object, x: Tensor, num_outputs: int) -> Tensor:
    out = torch.full((x.shape[0], num_outputs), float("nan"))
    matrix.run(x.data_ptr(), out.data_ptr(), x.shape[0])
    return out


@pytest.mark.parametrize(("isa", "dtype"), FLOATS)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_equal_to_double_and_no_row_depends_on_the_others(isa: str, dtype: torch.dtype, num_threads: int) -> None:
    workers = csrc.Workers(num_threads)
    for num_outputs, num_inputs in SHAPES:
        weight, bias = torch.randn(num_outputs, num_inputs).to(dtype), torch.randn(num_outputs)
        packed = weight.clone()
        matrix = csrc.Matrix(packed, None, bias, workers, isa)
        x = torch.randn(max(ROWS), num_inputs)
        whole = product(matrix, x, num_outputs)
        expected = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
        torch.testing.assert_close(whole.double(), expected, atol=4e-6 * num_inputs**0.5, rtol=1e-5)
        for num_rows in ROWS:
            assert torch.equal(product(matrix, x[:num_rows].clone(), num_outputs), whole[:num_rows])


@pytest.mark.parametrize("isa", ISAS_OF_PAIRS)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_many_rows_with_pairs_of_bfloat16_are_rounded_and_few_are_not(isa: str, num_threads: int) -> None:
    workers = csrc.Workers(num_threads)
    for num_outputs, num_inputs in SHAPES:
        weight, bias = torch.randn(num_outputs, num_inputs).bfloat16(), torch.randn(num_outputs)
        matrix = csrc.Matrix(weight.clone(), None, bias, workers, isa)
        x = torch.randn(max(ROWS), num_inputs)
        whole = product(matrix, x, num_outputs)
        few, many = (
            torch.nn.functional.linear(rows.double(), weight.double(), bias.double()) for rows in (x, x.bfloat16())
        )
        torch.testing.assert_close(whole.double(), many, atol=4e-6 * num_inputs**0.5, rtol=1e-5)
        for num_rows in ROWS:
            out = product(matrix, x[:num_rows].clone(), num_outputs)
            if num_rows > ROWS_UNROUNDED:
                assert torch.equal(out, whole[:num_rows])
            else:
                torch.testing.assert_close(out.double(), few[:num_rows], atol=4e-6 * num_inputs**0.5, rtol=1e-5)


@pytest.mark.parametrize("isa", ISAS_OF_PAIRS)
def test_pairs_round_to_even_and_keep_what_is_no_number(isa: str) -> None:
    x = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, torch.inf, torch.nan, 2**-120]).repeat(2)[:, None]
    matrix = csrc.Matrix(torch.ones(1, 1).bfloat16(), None, None, csrc.Workers(1), isa)
    torch.testing.assert_close(product(matrix, x, 1), x.bfloat16().float(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("num_threads", [1, 3])
def test_int8_equal_to_double_and_no_row_depends_on_the_others(isa: str, num_threads: int) -> None:
    torch.manual_seed(num_threads)
    workers = csrc.Workers(num_threads)
    for num_outputs, num_inputs, group in INT8_SHAPES:
        weight, scales, wide = int8_weight(num_outputs, num_inputs, group)
        bias = torch.randn(num_outputs)
        matrix = csrc.Matrix(weight, scales, bias, workers, isa)
        x = torch.randn(max(ROWS), num_inputs)
        whole = product(matrix, x, num_outputs)
        expected = torch.nn.functional.linear(x.double(), wide.double(), bias.double())
        torch.testing.assert_close(whole.double(), expected, atol=1.5e-4 * num_inputs**0.5, rtol=1e-5)
        for num_rows in ROWS:
            assert torch.equal(product(matrix, x[:num_rows].clone(), num_outputs), whole[:num_rows])


@pytest.mark.parametrize("isa", ISAS)
def test_int8_has_room_for_the_largest_sum(isa: str) -> None:
    weight = torch.full((16, 1024), 127, dtype=torch.int8)
    x = torch.ones(1, 1024)
    for sign in (1, -1):
        matrix = csrc.Matrix(weight * sign, torch.ones(16, 2), None, csrc.Workers(1), isa)
        torch.testing.assert_close(product(matrix, x, 16), torch.full((1, 16), sign * 127.0 * 1024))


@pytest.mark.parametrize("isa", ISAS)
def test_int8_of_zeros_and_of_no_numbers(isa: str) -> None:
    weight, scales, _ = int8_weight(20, 64, 32)
    matrix = csrc.Matrix(weight, scales, None, csrc.Workers(1), isa)
    x = torch.zeros(3, 64)
    x[1, 5], x[2, 6] = torch.nan, torch.inf
    out = product(matrix, x, 20)
    assert torch.equal(out[0], torch.zeros(20))
    assert not out[1:].isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_of_the_weight_comes_back_as_it_was(dtype: torch.dtype) -> None:
    for num_outputs, num_inputs in SHAPES:
        weight = torch.randn(num_outputs, num_inputs).to(dtype)
        matrix = csrc.Matrix(weight.clone(), None, None, csrc.Workers(1))
        row = torch.empty(num_inputs)
        for output in range(num_outputs):
            matrix.row(output, row.data_ptr())
            assert torch.equal(row, weight[output].float())


def test_a_row_of_an_int8_weight_comes_back_as_numbers() -> None:
    for num_outputs, num_inputs, group in INT8_SHAPES:
        weight, scales, wide = int8_weight(num_outputs, num_inputs, group)
        matrix = csrc.Matrix(weight, scales, None, csrc.Workers(1))
        row = torch.empty(num_inputs)
        for output in range(num_outputs):
            matrix.row(output, row.data_ptr())
            assert torch.equal(row, wide[output])


def test_what_no_matrix_can_be_made_of_is_refused() -> None:
    workers = csrc.Workers(1)
    bytes_, floats = torch.ones(4, 64, dtype=torch.int8), torch.ones(4, 4)
    refused = {
        "neither bfloat16, float32 nor int8": (torch.ones(4, 4, dtype=torch.float16), None, None),
        "a bias must have a value for each output": (floats, None, torch.ones(3)),
        "scales belong to int8": (floats, torch.ones(4, 1), None),
        "int8 to scales": (bytes_, None, None),
        "scales must be": (bytes_, torch.ones(4, 7), None),
        "a multiple of 4, 512 at most": (bytes_, torch.ones(4, 32), None),
    }
    for message, parts in refused.items():
        with pytest.raises(ValueError, match=message):
            csrc.Matrix(*parts, workers)
    with pytest.raises(ValueError, match="no kernels for mmx"):
        csrc.Matrix(floats, None, None, workers, "mmx")
    with pytest.raises(ValueError, match="no such output"):
        csrc.Matrix(floats, None, None, workers).row(4, 0)
