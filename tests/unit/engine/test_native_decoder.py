"""Steps in C++ equal plain torch, whatever the decoder is made of, and a request's do not depend on the others."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from tests.helpers.random_decoder import HEADS, Maker, Sequences, kv_shape
from trtdisagg.cache.native import extension
from trtdisagg.cache.pool import DTYPES, KvPool
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.models.decoder import Decoder
from trtdisagg.engine.native_decoder import NativeDecoder
from trtdisagg.engine.torch_decoder import TorchDecoder
from trtdisagg.protocol.spec import Dtype

pytestmark = pytest.mark.skipif(extension() is None, reason="the C++ extension is not built")

NUM_BLOCKS = 160
ISAS = extension().isas() if extension() else []


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


def check_equal(seed: int, dtype: Dtype, pool_dtype: Dtype, isa: str, heads: tuple[int, int, int]) -> None:
    rng = random.Random(seed)
    per_block, threads = rng.choice([3, 8, 16, 32, 128]), rng.choice([1, 2, 3])
    tolerance = {"atol": 2e-4, "rtol": 2e-4} if pool_dtype == "float32" else {"atol": 0.05, "rtol": 0.05}
    ours, theirs = (Maker(seed, DTYPES[dtype], heads).decoder() for _ in range(2))
    with (
        native(ours, pool_dtype=pool_dtype, per_block=per_block, threads=threads, isa=isa) as (fast, pool),
        plain(theirs, pool_dtype=pool_dtype, per_block=per_block) as (reference, plain_pool),
    ):
        vocab = theirs.embedding.shape[0]
        for step in Sequences(rng, 3, vocab, NUM_BLOCKS, per_block).steps(6):
            torch.testing.assert_close(fast.run(step), reference.run(step), **tolerance)
        torch.testing.assert_close(pool, plain_pool, equal_nan=True, **tolerance)
        assert not pool.isnan().all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize(
    ("dtype", "pool_dtype"), [("float32", "float32"), ("bfloat16", "float32"), ("float32", "bfloat16")]
)
def test_equal_to_plain_torch(
    dtype: Dtype, pool_dtype: Dtype, heads: tuple[int, int, int], isa: str, num_rounds: int
) -> None:
    for i in range(num_rounds):
        check_equal(i * 1000 + HEADS.index(heads) * 100 + ISAS.index(isa), dtype, pool_dtype, isa, heads)
