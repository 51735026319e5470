"""Who reads what from whom, for the cases that can be said in a line; all others in test_planning_layouts.py."""

from __future__ import annotations

import pytest
from helpers.layouts import layout

from trtdisagg.cache.shares import Share, holders, ranks_to_meet, shares
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import KvLayout


def test_layers_and_heads_that_both_have() -> None:
    mine, theirs = layout(pp=(4, 2)), layout(2, pp=(3, 3))
    assert shares(mine, 0, theirs, 0) == [
        Share(0, range(3), range(4)),
        Share(1, range(3), range(4, 8)),
        Share(2, range(3, 4), range(4)),
        Share(3, range(3, 4), range(4, 8)),
    ]


@pytest.mark.parametrize(
    "mine", [layout(4, num_kv_heads=2), layout(pp=(3, 3), num_kv_heads=2), layout(2, dp=True, num_kv_heads=2)]
)
def test_readers_of_one_head_are_spread_over_the_ranks_that_have_it(mine: KvLayout) -> None:
    theirs = layout(4, num_kv_heads=2)
    ranks = range(mine.parallel.num_ranks)
    assert {share.rank for rank in ranks for share in shares(mine, rank, theirs, 0)} == {0, 1, 2, 3}


def test_a_rank_meets_only_those_that_have_something_of_its_own() -> None:
    mine, theirs = layout(2), layout(4, pp=(3, 3))
    assert ranks_to_meet(mine, 0, theirs) == [0, 1, 4, 5]
    assert ranks_to_meet(mine, 1, theirs) == [2, 3, 6, 7]
    assert ranks_to_meet(theirs, 7, mine) == [1]


def test_with_attention_dp_the_ranks_of_one_dp_rank_are_read() -> None:
    mine, theirs = layout(2), layout(2, pp=(3, 3), dp=True)
    assert holders(theirs, 0) == [0, 2]
    assert [share.rank for share in shares(mine, 0, theirs, 1)] == [1, 3]
    assert ranks_to_meet(mine, 0, theirs) == [0, 1, 2, 3]


@pytest.mark.parametrize("dp_rank", [-1, 2])
def test_a_dp_rank_that_is_not_there_is_refused(dp_rank: int) -> None:
    theirs = layout(2, dp=True)
    with pytest.raises(HandoverError, match=f"dp_rank {dp_rank} of a server that has 2"):
        shares(theirs, 0, theirs, dp_rank)
