"""Steps in C++ equal plain torch, whatever the decoder is made of, and a request's do not depend on the others."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import pytest
import torch
from helpers.random_decoder import HEADS, NUM_POSITIONS, Maker, Sequences, kv_shape
from torch import Tensor

from trtdisagg.cache.native import extension
from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.models.decoder import Decoder
from trtdisagg.engine.native_decoder import NativeDecoder
from trtdisagg.engine.step import Chunk, Copy, Step
from trtdisagg.engine.torch_decoder import TorchDecoder
from trtdisagg.protocol.spec import Dtype

pytestmark = pytest.mark.skipif(extension() is None, reason="the C++ extension is not built")

NUM_BLOCKS = 160
ISAS = extension().isas() if extension() else []
PAIRS = "avx512bf16"  # where x is rounded for weights of bfloat16 when it has many rows


def open_backend(num_threads: int) -> Backend:
    backend = Backend(torch.float32, torch.device("cpu"), num_threads)
    backend.open()
    return backend


@contextmanager
def native(
    decoder: Decoder, *, pool_dtype: Dtype = "float32", per_block: int = 8, threads: int = 2, isa: str = ""
) -> Iterator[tuple[NativeDecoder, Tensor]]:
    """It takes the weights over: nobody else may use them."""
    with KvPool(kv_shape(decoder, per_block, pool_dtype), NUM_BLOCKS) as pool:
        pool.tensor.fill_(float("nan"))
        yield NativeDecoder(decoder, open_backend(threads), pool, isa), pool.tensor


@contextmanager
def plain(
    decoder: Decoder, *, pool_dtype: Dtype = "float32", per_block: int = 8
) -> Iterator[tuple[TorchDecoder, Tensor]]:
    with KvPool(kv_shape(decoder, per_block, pool_dtype), NUM_BLOCKS) as pool:
        pool.tensor.fill_(float("nan"))
        yield TorchDecoder(decoder, open_backend(1), pool), pool.tensor


TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}


def tolerance(weights: str, pool_dtype: Dtype, isa: str) -> dict[str, float]:
    if (weights, isa) == ("bfloat16", PAIRS):  # x is rounded where there are many rows
        return {"atol": 0.1, "rtol": 0.1}
    if pool_dtype == "bfloat16":  # a value that lies between two of them may be rounded either way
        return {"atol": 0.05, "rtol": 0.05}
    return {"atol": 5e-3, "rtol": 5e-3} if weights == "int8" else {"atol": 2e-4, "rtol": 2e-4}


def check_equal(seed: int, weights: str, pool_dtype: Dtype, isa: str, heads: tuple[int, int, int]) -> None:
    rng = random.Random(seed)
    per_block, threads = rng.choice([3, 8, 16, 32, 128]), rng.choice([1, 2, 3])
    ours, theirs = (Maker(seed, TYPES[weights], heads).decoder() for _ in range(2))
    close = tolerance(weights, pool_dtype, isa)
    with (
        native(ours, pool_dtype=pool_dtype, per_block=per_block, threads=threads, isa=isa) as (fast, pool),
        plain(theirs, pool_dtype=pool_dtype, per_block=per_block) as (reference, plain_pool),
    ):
        vocab = theirs.embedding.shape[0]
        for step in Sequences(rng, 3, vocab, NUM_BLOCKS, per_block).steps(5):
            torch.testing.assert_close(fast.run(step), reference.run(step), **close)
        torch.testing.assert_close(pool, plain_pool, equal_nan=True, **close)
        assert not pool.isnan().all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(
    ("weights", "pool_dtype"),
    [("float32", "float32"), ("bfloat16", "float32"), ("float32", "bfloat16"), ("int8", "float32")],
)
def test_equal_to_plain_torch(
    weights: str, pool_dtype: Dtype, heads: tuple[int, int, int], isa: str, num_rounds: int
) -> None:
    for i in range(num_rounds):
        check_equal(i * 1000 + HEADS.index(heads) * 100 + ISAS.index(isa), weights, pool_dtype, isa, heads)


def answer(decoder: Decoder, isa: str, others: list[int]) -> list[Tensor]:
    """The logits of one sequence, a prompt of 290 tokens and four single ones, in steps with prompts and single tokens
    of others, whose lengths are given."""
    per_block, logits = 32, []
    with native(decoder, per_block=per_block, isa=isa) as (fast, _):
        blocks = iter(range(NUM_BLOCKS))
        tables = [[next(blocks) for _ in range(-(-(length + 4) // per_block))] for length in (290, *others)]
        starts, counts = [0] * len(tables), [290, *others]
        for _ in range(5):
            chunks = [
                Chunk([(7 * i + start + n) % 50 for n in range(count)], start, table, num_logits=1)
                for i, (start, count, table) in enumerate(zip(starts, counts, tables, strict=True))
            ]
            logits.append(fast.run(Step(chunks[1:] + chunks[:1]))[-1])
            starts = [start + count for start, count in zip(starts, counts, strict=True)]
            counts = [1] * len(tables)
    return logits


@pytest.mark.parametrize(
    ("isa", "weights"),
    [(isa, weights) for isa in ISAS for weights in TYPES if (isa, weights) != (PAIRS, "bfloat16")],
)
@pytest.mark.parametrize("heads", [(9, 3, 64), (7, 1, 6)])
def test_a_row_does_not_depend_on_the_others(weights: str, heads: tuple[int, int, int], isa: str) -> None:
    rng = random.Random(weights)

    def decoder() -> Decoder:
        return Maker(3, TYPES[weights], heads).decoder()

    alone = answer(decoder(), isa, [])
    for others in ([5], [rng.randint(1, 40) for _ in range(63)]):
        for one, among in zip(alone, answer(decoder(), isa, others), strict=True):
            assert torch.equal(one, among)


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_a_prompt_does_not_depend_on_how_it_is_cut(weights: str) -> None:
    tokens, table = [n % 50 for n in range(200)], list(range(25))
    results = []
    for cuts in ([0, 200], [0, 37, 39, 200], [0, 128, 200]):
        with native(Maker(6, TYPES[weights], (9, 3, 64)).decoder()) as (fast, pool):
            for begin, end in pairwise(cuts):
                logits = fast.run(Step([Chunk(tokens[begin:end], begin, table, num_logits=1)]))
            results.append((logits, pool.clone()))
    for logits, pool in results[1:]:
        assert torch.equal(logits, results[0][0])
        assert torch.equal(pool[table], results[0][1][table])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (Step([Chunk([1], 0, [NUM_BLOCKS], num_logits=1)]), "outside the pool"),
        (Step([Chunk([1], 0, [-1], num_logits=1)]), "outside the pool"),
        (Step([Chunk([1, 2], 7, [3], num_logits=1)]), "too short"),
        (Step([Chunk([1], NUM_POSITIONS, list(range(90)), num_logits=1)]), "range"),
        (Step([Chunk([1000], 0, [3], num_logits=1)]), "vocabulary"),
        (Step([Chunk([-1], 0, [3], num_logits=1)]), "vocabulary"),
        (Step([Chunk([1], 0, [3], num_logits=2)]), "more tokens"),
        (Step([Chunk([1], 0, [3], num_logits=1)], copies=[Copy(0, NUM_BLOCKS)]), "outside the pool"),
    ],
)
def test_indices_out_of_bounds_touch_no_memory(step: Step, message: str) -> None:
    with native(Maker(4, torch.float32).decoder()) as (fast, pool):
        with pytest.raises(ValueError, match=message):
            fast.run(step)
        assert pool.isnan().all()


def test_nan_stays_with_its_request() -> None:
    decoder = Maker(5, torch.float32, (4, 4, 16)).decoder()
    decoder.embedding[7] = float("nan")
    with native(decoder) as (fast, _):
        logits = fast.run(Step([Chunk([1, 2, 7], 0, [0], num_logits=1), Chunk([1, 2, 3], 0, [1], num_logits=1)]))
    assert logits.isnan().any(dim=1).tolist() == [True, False]
