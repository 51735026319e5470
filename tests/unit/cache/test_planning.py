"""The arithmetic of transfers against copying token by token."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from helpers.layouts import transfer_runs
from hypothesis import given, settings
from hypothesis import strategies as st

from trtdisagg.cache.layout import Runs, block_bytes
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvShape

SHAPE = KvShape(model="m", dtype="float32", num_layers=2, num_kv_heads=3, head_dim=4, tokens_per_block=8)


def pool(shape: KvShape, num_blocks: int, seed: int) -> np.ndarray:
    size = (num_blocks, shape.num_layers, shape.num_kv_heads, 2, shape.tokens_per_block, shape.head_dim)
    return np.random.default_rng(seed).random(size, np.float32)


def copied(runs: Runs, local: np.ndarray, remote: np.ndarray) -> np.ndarray:
    target, source = bytearray(local.tobytes()), remote.tobytes()
    for local_offset, remote_offset, num_bytes in runs.tolist():
        assert num_bytes > 0
        target[local_offset : local_offset + num_bytes] = source[remote_offset : remote_offset + num_bytes]
    return np.frombuffer(bytes(target), np.float32).reshape(local.shape)


def row(blocks: list[int], tensor: np.ndarray, token: int) -> np.ndarray:
    """All layers' K and V of one token."""
    num = tensor.shape[4]
    return tensor[blocks[token // num], :, :, :, token % num]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_each_token_arrives_and_no_other_block_is_touched(data: st.DataObject) -> None:
    sizes = st.sampled_from([1, 2, 3, 4, 6, 8])
    mine = msgspec.structs.replace(SHAPE, tokens_per_block=data.draw(sizes))
    theirs = msgspec.structs.replace(SHAPE, tokens_per_block=data.draw(sizes))
    num_tokens = data.draw(st.integers(0, 20))
    tables = []
    for shape in (mine, theirs):
        least = -(-num_tokens // shape.tokens_per_block)
        tables.append(data.draw(st.permutations(range(24)))[: least + data.draw(st.integers(0, 2))])
    their_blocks = tables[1]
    my_blocks = [data.draw(st.sampled_from([block, block, block, -1])) for block in tables[0]]
    before, remote = pool(mine, 24, seed=1), pool(theirs, 24, seed=2)

    after = copied(transfer_runs(mine, my_blocks, theirs, their_blocks, num_tokens), before, remote)

    for token in range(num_tokens):
        if my_blocks[token // mine.tokens_per_block] < 0:
            continue  # that one is not wanted
        assert (row(my_blocks, after, token) == row(their_blocks, remote, token)).all()
    used = set(my_blocks[: -(-num_tokens // mine.tokens_per_block)])
    for block in set(range(24)) - used:
        assert (after[block] == before[block]).all()


def test_neighbours_on_both_sides_are_one_run() -> None:
    size = block_bytes(SHAPE)
    runs = transfer_runs(SHAPE, [4, 5, 6, 9], SHAPE, [1, 2, 5, 6], 4 * 8)
    assert runs.tolist() == [[4 * size, 1 * size, 2 * size], [6 * size, 5 * size, size], [9 * size, 6 * size, size]]


def test_blocks_in_a_row_are_one_run_whatever_their_number() -> None:
    runs = transfer_runs(SHAPE, list(range(100)), SHAPE, list(range(50, 150)), 799)
    assert runs.tolist() == [[0, 50 * block_bytes(SHAPE), 100 * block_bytes(SHAPE)]]


def test_only_blocks_with_tokens_are_copied() -> None:
    runs = transfer_runs(SHAPE, [0, 1, 2, 3], SHAPE, [0, 1, 2], 9)
    assert runs[:, 2].sum() == 2 * block_bytes(SHAPE)


@pytest.mark.parametrize("tokens_per_block", [8, 16])
def test_a_ticket_with_too_few_blocks_is_refused(tokens_per_block: int) -> None:
    theirs = msgspec.structs.replace(SHAPE, tokens_per_block=tokens_per_block)
    with pytest.raises(HandoverError, match="33 tokens do not fit into the 2 blocks"):
        transfer_runs(SHAPE, list(range(8)), theirs, [0, 1], 33)
