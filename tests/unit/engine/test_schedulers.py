"""Requests that ranks divide among them: who goes where, one step for all, and steps that wait for transfers.

That any history gives the same tokens with any number of ranks is shown in test_histories.
"""

from __future__ import annotations

from collections import Counter

import pytest
from fakes.handover import ticket
from fakes.runner import tokens_alone
from helpers.engine import HandDriven, make_request

from trtdisagg.engine.request import Request
from trtdisagg.engine.schedulers import Room, place

PROMPT = list(range(1, 9))


@pytest.mark.parametrize(
    ("rooms", "chosen"),
    [
        ([Room(0, 0), Room(0, 0)], 0),
        ([Room(0, 5), Room(0, 4)], 1),
        ([Room(0, 0), Room(4, 3)], 1),
        ([Room(0, 0), Room(4, 4)], 0),
        ([Room(0, 9), Room(2, 9), Room(4, 9)], 2),
    ],
)
def test_a_request_goes_where_it_adds_to_the_fewest_tokens(rooms: list[Room], chosen: int) -> None:
    assert place(rooms) == chosen


def engine_of(dp_size: int, **limits: int | bool) -> HandDriven:
    return HandDriven(dp_size=dp_size, tokens_per_block=4, **limits)


def expect_alone(engine: HandDriven, *requests: Request) -> None:
    for request in requests:
        for choice in range(request.num_choices):
            expected = tokens_alone(request, request.sampling.max_tokens, choice=choice)
            assert engine.tokens(request.id, choice) == expected
    engine.assert_empty()


@pytest.mark.parametrize("dp_size", [2, 3, 4])
def test_requests_are_spread_evenly_and_computed_in_one_step(dp_size: int) -> None:
    engine = engine_of(dp_size, max_batch_size=2, max_num_tokens=12)
    requests = [make_request(i, num_prompt=6) for i in range(2 * dp_size)]
    engine.add(*requests)
    first = engine.step()
    assert first is not None
    assert Counter(c.dp_rank for c in first.chunks) == dict.fromkeys(range(dp_size), 2)
    assert [c.dp_rank for c in first.chunks] == sorted(c.dp_rank for c in first.chunks)
    assert engine.stats.num_running == 2 * dp_size
    assert engine.stats.num_blocks == dp_size * engine.limits.num_blocks
    engine.run()
    expect_alone(engine, *requests)


def test_who_begins_alike_goes_where_that_is_until_it_has_more_to_do_there_than_it_saves() -> None:
    engine = engine_of(2)
    alike = [make_request(i, prompt=PROMPT) for i in range(3)]
    engine.add(alike[0])
    engine.run()
    other = make_request(3, num_prompt=5)
    engine.add(other, *alike[1:])
    step = engine.step()
    assert step is not None
    assert [(c.dp_rank, len(c.tokens)) for c in step.chunks] == [(0, 5), (0, 1), (1, 8)]
    engine.run()
    expect_alone(engine, other, *alike)


def test_choices_stay_with_the_one_that_computes_their_prompt() -> None:
    engine = engine_of(3)
    requests = [make_request(i, prompt=[i, 2, 3, 4, 5], num_choices=2) for i in (1, 2)]
    engine.add(*requests)
    engine.step()
    step = engine.step()
    assert step is not None
    assert [(c.dp_rank, len(c.tokens)) for c in step.chunks] == [(0, 1), (0, 1), (1, 1), (1, 1)]
    assert {copy.dp_rank for copy in step.copies} == {0, 1}
    engine.run()
    expect_alone(engine, *requests)


def test_a_pool_that_is_full_preempts_its_own_alone() -> None:
    engine = engine_of(2, num_blocks=6)
    requests = [make_request(i, num_prompt=5, max_tokens=16) for i in range(4)]
    engine.add(*requests)
    engine.run()
    assert engine.stats.num_preemptions_total > 0
    expect_alone(engine, *requests)


def test_a_ticket_says_whose_blocks_are_held_and_a_fetch_whose_they_are_for() -> None:
    engine = engine_of(2)
    engine.add(*(make_request(i, type="context_only") for i in (1, 2)))
    engine.run()
    tickets = [engine.last(i).ticket for i in (1, 2)]
    assert [t and t.dp_rank for t in tickets] == [0, 1]
    engine.add(*(make_request(i, type="generation_only", ticket=ticket(i, 5, [7, 8])) for i in (3, 4)))
    engine.step()
    assert [engine.handover.fetches[i].dp_rank for i in (3, 4)] == [0, 1]
    for i in (3, 4):
        engine.handover.end_fetch(i, "gone")
    for i in (1, 2):
        engine.handover.release(i)
    engine.run()
    engine.assert_empty()


def test_a_block_on_several_ranks_is_told_of_once() -> None:
    engine = engine_of(2, event_buffer_max_size=100)
    engine.add(*(make_request(i, prompt=PROMPT, max_tokens=1) for i in (1, 2)))
    engine.run()
    kinds = [type(e.data).__name__ for e in engine.core.take_kv_events()]
    assert kinds == ["Created", "Stored", "Stored"]


@pytest.mark.parametrize("dp_size", [1, 2])
def test_without_overlap_nothing_is_computed_while_anything_travels(dp_size: int) -> None:
    engine = engine_of(dp_size, overlap_transfers=False)
    running = [make_request(i, max_tokens=8) for i in (1, 2)]
    engine.add(*running)
    engine.step(2)
    engine.add(make_request(3, type="generation_only", ticket=ticket(3, 5, [7, 8])))
    assert engine.step(3) is None
    assert not engine.core.step(), "it would go round and round"
    assert engine.handover.fetches
    engine.handover.end_fetch(3, "gone")
    engine.run()
    expect_alone(engine, *running)


def test_with_overlap_others_go_on_meanwhile() -> None:
    engine = engine_of(1)
    engine.add(make_request(1, max_tokens=8))
    engine.step(2)
    engine.add(make_request(3, type="generation_only", ticket=ticket(3, 5, [7, 8])))
    assert engine.step() is not None
    engine.handover.end_fetch(3, "gone")
    engine.run()
    engine.assert_empty()
