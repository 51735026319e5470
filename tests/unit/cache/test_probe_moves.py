"""What a probe moves: pieces of the size that two layouts make, of which no two lie side by side on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from trtdisagg.cache.probe_moves import piece_bytes, runs
from trtdisagg.protocol.handover import KvLayout
from trtdisagg.protocol.parallel import Parallel, even_partition
from trtdisagg.protocol.probe import MAX_PIECE_BYTES, Layouts

NUM_LAYERS, HEAD_BYTES = 8, 2 * 32 * 64 * 2
"""K and V of 32 tokens, 64 values of 2 bytes each."""


def layout(tp: int = 1, pp: int = 1, *, tokens_per_block: int = 32) -> KvLayout:
    return KvLayout(
        model="m",
        dtype="bfloat16",
        num_layers=NUM_LAYERS,
        num_kv_heads=4,
        head_dim=64,
        tokens_per_block=tokens_per_block,
        num_blocks=1,
        parallel=Parallel(tp_size=tp, pp_partition=even_partition(NUM_LAYERS, pp) if pp > 1 else []),
    )


@pytest.mark.parametrize(
    ("mine", "theirs", "size"),
    [
        (layout(), layout(), NUM_LAYERS * 4 * HEAD_BYTES),  # a block
        (layout(), layout(pp=2), NUM_LAYERS * 2 * HEAD_BYTES),  # half of its layers
        (layout(), layout(tp=2), 2 * HEAD_BYTES),  # two heads of a layer
        (layout(tp=4), layout(tp=2), HEAD_BYTES),
        (layout(), layout(tokens_per_block=16), HEAD_BYTES // 4),  # K or V of 16 tokens
    ],
)
def test_pieces_of_layouts(mine: KvLayout, theirs: KvLayout, size: int) -> None:
    assert piece_bytes(Layouts(mine=mine, theirs=theirs)) == min(size, MAX_PIECE_BYTES)


@pytest.mark.parametrize("size", [MAX_PIECE_BYTES, 4096])
def test_no_two_pieces_make_one(size: int) -> None:
    found = runs(4 * MAX_PIECE_BYTES, size)
    assert found[:, 2].sum() == 4 * MAX_PIECE_BYTES
    local = found[np.argsort(found[:, 1])]
    assert not (local[1:, 0] == local[:-1, 0] + local[:-1, 2]).any()
