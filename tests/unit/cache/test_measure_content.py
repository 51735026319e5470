"""What is measured with finds out what goes wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from helpers.layouts import layout

from trtdisagg.cache.layout import rank_shape
from trtdisagg.cache.measure.content import Content
from trtdisagg.cache.pool import KvPool

BLOCKS = [3, 0, 7]
LAYOUT = layout(2, pp=(2, 4))


@pytest.fixture
def pool() -> Iterator[KvPool]:
    with KvPool(rank_shape(LAYOUT, 3), 8) as pool:
        yield pool


def test_what_was_written_is_right(pool: KvPool) -> None:
    content = Content(LAYOUT, 3, pool)
    content.write(BLOCKS)
    assert content.wrong(BLOCKS) is None
    content.wipe()
    assert content.wrong(BLOCKS) == "what arrived is not what was sent: block 0 of 3"


def test_one_row_of_another_token_is_wrong(pool: KvPool) -> None:
    content = Content(LAYOUT, 3, pool)
    content.write(BLOCKS)
    pool.tensor[0, 1, 2, 1, 5] = pool.tensor[0, 1, 2, 1, 6]
    assert content.wrong(BLOCKS) == "what arrived is not what was sent: block 1 of 3"


def test_ranks_hold_different_things(pool: KvPool) -> None:
    for rank in range(3):
        with KvPool(rank_shape(LAYOUT, rank), 8) as other:
            Content(LAYOUT, rank, other).write(BLOCKS)
            rows = set(other.tensor[BLOCKS].flatten().tolist())
            Content(LAYOUT, 3, pool).write(BLOCKS)
            assert rows.isdisjoint(pool.tensor[BLOCKS].flatten().tolist())
