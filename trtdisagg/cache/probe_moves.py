"""What the probe moves, and how long it takes: pools of one shape, filled so that each block is known by its content.

    server's pool   | 1 1 1 ... | 2 2 2 ... | ... | n n n ... |      block by block into the other's pool, in an
    probe's pool    | n n n ... | ...       | 2 2 2 ... | 1 1 1 |    order in which no two blocks make one run

Knows nothing of processes and transports.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from msgspec.structs import replace

from trtdisagg.cache.layout import Runs
from trtdisagg.cache.planning import Planner
from trtdisagg.cache.pool import KvPool
from trtdisagg.protocol.handover import KvShape
from trtdisagg.protocol.peers import Part
from trtdisagg.protocol.probe import MAX_PIECE_BYTES, Layouts, Rate

SIZES = (1 << 20, 64 << 20)
_BLOCK_BYTES = MAX_PIECE_BYTES
_SHAPE = KvShape(model="probe", dtype="float32", num_layers=4, num_kv_heads=4, head_dim=128, tokens_per_block=64)
_NUM_BLOCKS = SIZES[-1] // _BLOCK_BYTES
_NUM_SCATTERED = 4
"""Blocks of a request that are no neighbours."""
_MIN_MOVES = 3
_MEASURE_S = 0.4
"""How long a size is moved again and again."""

Move = Callable[[int], None]
"""Moves so many bytes."""


@contextlib.contextmanager
def empty_pool(device: str) -> Iterator[KvPool]:
    """A pool with no page left to be touched for the first time."""
    with KvPool(_SHAPE, _NUM_BLOCKS, device) as pool:
        assert pool.block_bytes == _BLOCK_BYTES
        pool.tensor.zero_()
        yield pool


def fill(pool: KvPool) -> None:
    for block in range(_NUM_BLOCKS):
        pool.tensor[block] = _mark(block)
    _finish(pool)


def _mark(block: int) -> float:
    """What stands all over a block of the server."""
    return float(block + 1)


def runs(num_bytes: int, piece_bytes: int = _BLOCK_BYTES) -> Runs:
    """What to read for so many bytes, the last piece first.

    :param piece_bytes: divides a block.
    """
    pieces = np.arange(num_bytes // piece_bytes, dtype=np.int64)
    size = np.full_like(pieces, piece_bytes)
    return np.column_stack((pieces[::-1] * piece_bytes, pieces * piece_bytes, size))


def piece_bytes(layouts: Layouts) -> int:
    """The size of the pieces in which most KV goes from one server to the other, as the largest power of two in it."""
    mine, theirs = (replace(layout, num_blocks=2 * _NUM_SCATTERED) for layout in (layouts.mine, layouts.theirs))
    num_tokens = _NUM_SCATTERED * min(mine.tokens_per_block, theirs.tokens_per_block)
    scattered = [2 * i for i in range(_NUM_SCATTERED)]
    part = Part(
        incarnation="",
        their_dp_rank=0,
        their_blocks=scattered,
        my_blocks=scattered,
        num_tokens=num_tokens,
        timeout_ms=1,
    )
    sizes = np.concatenate([found[:, 2] for found in Planner(mine, 0, theirs).plan(part).values()])
    return 1 << min(_BLOCK_BYTES.bit_length() - 1, int(np.median(sizes)).bit_length() - 1)


def wrong_content(pool: KvPool, move: Move) -> str | None:
    """Move everything into a pool that was emptied, and look at it.

    :returns: what is wrong.
    """
    pool.tensor.zero_()
    _finish(pool)
    move(SIZES[-1])
    for block in range(_NUM_BLOCKS):
        if not bool((pool.tensor[_NUM_BLOCKS - 1 - block] == _mark(block)).all()):
            return f"what arrived is not what was sent: block {block} of {_NUM_BLOCKS}"
    return None


def rates(move: Move) -> list[Rate]:
    """Move each size again and again."""
    return [Rate(num_bytes=num_bytes, seconds=_median_s(move, num_bytes)) for num_bytes in SIZES]


def _median_s(move: Move, num_bytes: int) -> float:
    move(num_bytes)
    seconds: list[float] = []
    while len(seconds) < _MIN_MOVES or sum(seconds) < _MEASURE_S:
        begun = time.perf_counter()
        move(num_bytes)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def plain_copy(pool: KvPool) -> Move:
    """A copy by one thread within the kind of memory that the pool is made of."""
    torch.set_num_threads(1)
    source, target = pool.tensor.clone().flatten(), pool.tensor.flatten()

    def copy(num_bytes: int) -> None:
        num_items = num_bytes // source.element_size()
        target[:num_items].copy_(source[:num_items])
        _finish(pool)

    return copy


def nccl_version() -> str | None:
    """Of the one that comes with torch; None: torch computes on the CPU alone."""
    if torch.version.cuda is None:
        return None
    return ".".join(str(part) for part in torch.cuda.nccl.version())


def _finish(pool: KvPool) -> None:
    """Wait for the device."""
    if pool.device.type == "cuda":
        torch.cuda.synchronize(pool.device)
