"""The pool's bytes lie where peers look for them, and go when it is closed."""

from __future__ import annotations

import mmap
import os

import pytest
import torch

from trtdisagg.cache.layout import block_bytes
from trtdisagg.cache.pool import KvPool, nonce_offset, pattern
from trtdisagg.errors import StartupError
from trtdisagg.protocol.handover import KvShape


def shape(dtype: str = "bfloat16", head_dim: int = 4) -> KvShape:
    return KvShape(model="m", dtype=dtype, num_layers=3, num_kv_heads=2, head_dim=head_dim, tokens_per_block=8)


@pytest.mark.parametrize(("dtype", "itemsize"), [("float32", 4), ("bfloat16", 2)])
def test_layout_is_block_layer_head_kv_token(dtype: str, itemsize: int) -> None:
    with KvPool(shape(dtype), num_blocks=5) as pool:
        assert pool.block_bytes == block_bytes(shape(dtype)) == 3 * 2 * 2 * 8 * 4 * itemsize
        assert pool.tensor.shape == (5, 3, 2, 2, 8, 4)
        assert pool.tensor.is_contiguous()
        offset = (((((4 * 3 + 2) * 2 + 1) * 2 + 1) * 8 + 7) * 4 + 3) * itemsize
        assert pool.tensor[4, 2, 1, 1, 7, 3].data_ptr() - pool.address == offset == pool.num_bytes - itemsize


def test_a_peer_maps_the_same_bytes_and_finds_the_nonce() -> None:
    with KvPool(shape(), num_blocks=5) as pool:
        pool.tensor.fill_(1.0)
        fd = os.open(f"/proc/{os.getpid()}/fd/{pool.fd}", os.O_RDONLY)
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as peer:
            assert peer[: pool.num_bytes] == bytes.fromhex("803f") * (pool.num_bytes // 2)
            offset = nonce_offset(pool.region.num_bytes)
            assert offset >= pool.region.num_bytes
            assert peer[offset : offset + 16] == pool.nonce
        os.close(fd)
    assert pool.fd is None


def test_what_lies_beside_the_blocks_does_not_overlap_them() -> None:
    with KvPool(shape(), num_blocks=5, staging_bytes=5000) as pool:
        r = pool.region
        assert pool.num_bytes == r.pool_bytes <= r.pattern_offset < r.sink_offset < r.staging_offset
        assert r.num_bytes == r.staging_offset + 5000 == len(pool.memory)
        assert torch.equal(pool.memory[r.pattern_offset : r.sink_offset], pattern())
        pool.memory[r.pool_bytes :] = 7
        pool.tensor.zero_()
        assert (pool.memory[r.pool_bytes :] == 7).all()


def test_warm_pages_are_there_before_they_are_touched() -> None:
    with KvPool(shape(head_dim=64), num_blocks=400) as pool:
        pool.tensor[0] = 3.0
        assert _resident_bytes(pool) < 2**20
        pool.warm_up(2**20)
        assert 2**20 <= _resident_bytes(pool) < 2**21
        pool.warm_up(2**40)
        pool.warm_up(100)
        assert pool.num_bytes - mmap.PAGESIZE < _resident_bytes(pool)
        assert (pool.tensor[0] == 3.0).all()
        assert not pool.tensor[1:].any()


def _resident_bytes(pool: KvPool) -> int:
    """Of the blocks."""
    assert pool.fd is not None
    beside = pool.region.sink_offset - pool.region.pattern_offset + mmap.PAGESIZE
    return os.fstat(pool.fd).st_blocks * 512 - beside


def test_nonce_never_overlaps_the_blocks() -> None:
    for num_bytes in (1, mmap.PAGESIZE - 1, mmap.PAGESIZE, mmap.PAGESIZE + 1):
        assert num_bytes <= nonce_offset(num_bytes) < num_bytes + mmap.PAGESIZE


def test_memory_goes_with_the_pool() -> None:
    pool = KvPool(shape(), num_blocks=5)
    pool.open()
    name = os.readlink(f"/proc/self/fd/{pool.fd}")
    assert name in _maps()
    pool.close()
    assert name not in _maps()
    pool.close()


def _maps() -> str:
    with open("/proc/self/maps") as maps:
        return maps.read()


def test_a_view_outlives_the_pool_safely() -> None:
    with KvPool(shape(), num_blocks=5) as pool:
        pool.tensor.fill_(2.0)
        view = pool.tensor[3]
    assert torch.all(view == 2.0)


def test_too_large_a_pool_is_refused_with_its_numbers() -> None:
    with pytest.raises(StartupError, match=r"1000000000000 blocks x 768 bytes = .* MiB .*available.*max_tokens"):
        KvPool(shape(), num_blocks=10**12).open()
