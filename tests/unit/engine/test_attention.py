"""The csrc kernels against plain torch on the same pool: what they write into it and what they give back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from trtdisagg.cache.native import extension
from trtdisagg.cache.pool import DTYPES, KvPool
from trtdisagg.engine.attention import NativeAttention, TorchAttention
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.models.decoder import Rope
from trtdisagg.engine.step import Chunk
from trtdisagg.protocol.handover import KvShape

pytestmark = pytest.mark.skipif(extension() is None, reason="the C++ extension is not built")

NUM_LAYERS, LAYER, NUM_BLOCKS, NUM_POSITIONS = 2, 1, 160, 600
# (query heads, KV heads, head_dim): groups of 1 to 9, sizes that fill vectors and sizes that do not.
HEADS = [(9, 3, 64), (4, 4, 16), (5, 1, 32), (7, 1, 6), (8, 4, 128), (18, 2, 80)]


def tables(head_dim: int) -> Rope:
    angles = torch.rand(NUM_POSITIONS, head_dim // 2) * 6.3
    return Rope(cosines=angles.cos(), sines=angles.sin())


@contextmanager
def twins(heads: tuple[int, int, int], *, dtype: str, pool_dtype: str, per_block: int, threads: int) -> Iterator[Any]:
    """Both implementations, each over a pool of its own."""
    num_heads, num_kv_heads, head_dim = heads
    shape = KvShape(
        model="m",
        dtype=pool_dtype,
        num_layers=NUM_LAYERS,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        tokens_per_block=per_block,
    )
    backend = Backend(DTYPES[dtype], torch.device("cpu"), threads)
    backend.open()
    angles = tables(head_dim)
    with KvPool(shape, NUM_BLOCKS) as pool, KvPool(shape, NUM_BLOCKS) as other:
        for p in (pool, other):
            p.tensor.fill_(float("nan"))
        native = NativeAttention(backend, pool, angles, num_heads=num_heads)
        yield native, TorchAttention(other, angles, num_heads=num_heads), pool.tensor, other.tensor


def grow(
    rng: random.Random, lengths: list[int], tables: list[list[int]], free: list[int], per_block: int
) -> list[Chunk]:
    """The next tokens of some sequences: single ones, odd pieces, more than one tile."""
    chunks = []
    for s in rng.sample(range(len(lengths)), rng.randint(1, len(lengths))):
        count = rng.choice([1, 1, 2, 7, 33, 100])
        if (lengths[s] + count) > per_block * (NUM_BLOCKS // len(lengths)):
            continue
        start, lengths[s] = lengths[s], lengths[s] + count
        while len(tables[s]) * per_block < lengths[s]:
            tables[s].append(free.pop())
        chunks.append(Chunk([0] * count, start, list(tables[s]), num_logits=1))
    return chunks


@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(
    ("dtype", "pool_dtype"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32")]
)
def test_equal_to_plain_torch(heads: tuple[int, int, int], dtype: str, pool_dtype: str) -> None:
    rng = random.Random(f"{heads}{dtype}")
    torch.manual_seed(rng.randrange(1000))
    tolerance = {"atol": 3e-6, "rtol": 0} if dtype == "float32" else {"atol": 0.02, "rtol": 0.02}
    per_block, threads = rng.choice([3, 8, 16, 32, 128]), rng.choice([1, 2, 3])
    row_width = (heads[0] + 2 * heads[1]) * heads[2]
    free = rng.sample(range(NUM_BLOCKS), NUM_BLOCKS)
    lengths, block_tables = [0, 0, 0], [[], [], []]
    with twins(heads, dtype=dtype, pool_dtype=pool_dtype, per_block=per_block, threads=threads) as twin:
        native, plain, pool, plain_pool = twin
        for _ in range(6):
            chunks = grow(rng, lengths, block_tables, free, per_block)
            if not chunks:
                continue
            qkv = torch.randn(sum(len(c.tokens) for c in chunks), row_width).to(DTYPES[dtype])
            native.begin(chunks)
            plain.begin(chunks)
            torch.testing.assert_close(native.run(LAYER, qkv), plain.run(LAYER, qkv), **tolerance)
        torch.testing.assert_close(pool, plain_pool, equal_nan=True, **tolerance)
        assert pool[:, 1 - LAYER].isnan().all()
        assert not pool[block_tables[0], LAYER].isnan().all()


@pytest.mark.parametrize("isa", extension().isas() if extension() else [])
def test_every_instruction_set_gives_the_same(isa: str) -> None:
    """Softmax that is spread over several passes, with scores that grow and so rescale what was summed."""
    csrc = extension()
    pool = torch.full((40, 1, 1, 2, 8, 16), float("nan"))
    angles = Rope(cosines=torch.ones(320, 8), sines=torch.zeros(320, 8))
    kernel = csrc.PagedAttention(
        pool.data_ptr(),
        num_blocks=40,
        num_layers=1,
        num_heads=2,
        num_kv_heads=1,
        head_dim=16,
        tokens_per_block=8,
        pool_is_bf16=False,
        cosines=angles.cosines,
        sines=angles.sines,
        scale=0.25,
        workers=csrc.Workers(1),
        isa=isa,
    )
    torch.manual_seed(0)
    rows = torch.randn(300, 4 * 16) * torch.linspace(0.1, 4, 300)[:, None]
    queries, keys, values = rows.double().split([32, 16, 16], dim=1)
    scores = torch.einsum("thd,sd->hts", queries.view(300, 2, 16), keys) / 4
    weights = scores.masked_fill(torch.ones(300, 300).triu(1).bool(), -torch.inf).softmax(-1)
    expected = torch.einsum("hts,sd->thd", weights, values).flatten(1)
    for begin, count in ((0, 290), (290, 1), (291, 9)):
        out, piece = torch.empty(count, 32), rows[begin : begin + count].contiguous()
        kernel.begin(torch.tensor([[count, begin, 0]]).numpy(), torch.arange(40, dtype=torch.int32).numpy())
        kernel.run(0, piece.data_ptr(), out.data_ptr(), count, is_bf16=False)
        torch.testing.assert_close(out.double(), expected[begin : begin + count], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (Chunk([1], 0, [NUM_BLOCKS], num_logits=1), "outside the pool"),
        (Chunk([1], 0, [-1], num_logits=1), "outside the pool"),
        (Chunk([1, 2], 7, [3], num_logits=1), "too short"),
        (Chunk([1], NUM_POSITIONS, list(range(80)), num_logits=1), "range"),
    ],
)
def test_indices_out_of_bounds_touch_no_memory(chunk: Chunk, message: str) -> None:
    pair = twins(HEADS[0], dtype="float32", pool_dtype="float32", per_block=8, threads=1)
    with pair as (native, *_), pytest.raises(ValueError, match=message):
        native.begin([chunk])
