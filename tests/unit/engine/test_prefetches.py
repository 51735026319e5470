"""Pieces of prompts that travel while the rest is computed: the request finds them, and never depends on them."""

from __future__ import annotations

from typing import Any

import pytest
from fakes.runner import tokens_alone
from helpers.engine import HandDriven, make_request
from helpers.engine_world import make_like
from helpers.pipeline import READER, Pipeline

from trtdisagg.engine.request import Request

PROMPT = list(range(1, 22))


def make_pipeline(*, generation: dict[str, Any] | None = None, **context: Any) -> Pipeline:
    context = {"tokens_per_block": 4, "max_num_tokens": 8, "pipelined_transfers": True, **context}
    return Pipeline(HandDriven(**context), HandDriven(tokens_per_block=4, **(generation or {})))


def add_context(pipeline: Pipeline, reader: str | None = READER, **fields: Any) -> Request:
    request = make_request(1, prompt=PROMPT, type="context_only", reader=reader, **fields)
    pipeline.context.add(request)
    return request


def enter(pipeline: Pipeline, request: Request) -> Request:
    """The request comes to the generation server."""
    first = pipeline.context.last(request.id)
    assert first.ticket is not None
    second = make_like(request, type="generation_only", output_token_ids=first.new_token_ids, ticket=first.ticket)
    pipeline.generation.add(second)
    pipeline.generation.step()
    return second


def finish(pipeline: Pipeline, request: Request) -> None:
    """The rest of its KV comes, and its tokens are right."""
    generation = pipeline.generation
    for request_id in list(generation.handover.fetches):
        generation.runner.copy_kv(generation.handover.fetches[request_id], pipeline.context.runner)
        generation.handover.end_fetch(request_id)
    generation.run()
    assert generation.tokens(request.id) == tokens_alone(request, request.sampling.max_tokens)
    for request_id in list(pipeline.context.handover.held):
        pipeline.context.handover.release(request_id)
    pipeline.context.run()
    pipeline.go_on()
    assert not pipeline.context.handover.told
    generation.assert_empty()
    pipeline.context.assert_empty()


def num_fetched(pipeline: Pipeline) -> int:
    """Blocks that the request itself has to fetch."""
    return sum(block >= 0 for fetch in pipeline.generation.handover.fetches.values() for block in fetch.blocks)


@pytest.mark.parametrize("dp_size", [1, 2])
def test_only_the_last_chunk_is_left_to_fetch_when_the_request_comes(dp_size: int) -> None:
    pipeline = make_pipeline(dp_size=dp_size, generation={"dp_size": dp_size})
    request = add_context(pipeline)
    for _ in range(3):
        pipeline.context.step()
        pipeline.go_on()
    second = enter(pipeline, request)
    assert num_fetched(pipeline) == 2  # of 6: 16 of 21 tokens were computed in two chunks
    finish(pipeline, second)


def test_it_is_told_of_full_blocks_once_each_and_of_the_last_chunk_never() -> None:
    pipeline = make_pipeline(max_num_tokens=6)
    add_context(pipeline)
    seen = []
    for _ in range(4):
        pipeline.context.step()
        seen += [len(told.tokens) for told in pipeline.context.handover.told.values()]
    assert seen == [4, 12, 16, 16]


@pytest.mark.parametrize(
    ("context", "reader"),
    [({"pipelined_transfers": False}, READER), ({}, "generation-9"), ({}, None), ({"max_num_tokens": 21}, READER)],
)
def test_nothing_is_told_where_it_is_off_or_nobody_is_there_or_it_is_one_chunk(
    context: dict[str, Any], reader: str | None
) -> None:
    pipeline = make_pipeline(**context)
    request = add_context(pipeline, reader)
    pipeline.context.run()
    assert not pipeline.context.handover.num_announced
    second = enter(pipeline, request)
    assert num_fetched(pipeline) == 6
    finish(pipeline, second)


@pytest.mark.parametrize("limits", [{"enable_block_reuse": False}, {"overlap_transfers": False}])
def test_where_nothing_is_found_again_or_transfers_wait_nobody_listens(limits: dict[str, Any]) -> None:
    assert make_pipeline(generation=limits).generation.handover.follower is None


def test_what_is_read_after_the_prompt_was_given_up_is_not_found() -> None:
    pipeline = make_pipeline()
    add_context(pipeline)
    pipeline.context.step()
    pipeline.tell()
    pipeline.generation.core.receive(timeout_s=0)
    [key] = pipeline.pieces
    pipeline.context.cancel(1)
    pipeline.context.step()
    pipeline.read(key)
    pipeline.check(key)
    pipeline.go_on()
    assert pipeline.generation.stats.num_cached_blocks == 0
    pipeline.generation.assert_empty()
    pipeline.context.assert_empty()


def test_who_is_preempted_takes_back_what_was_told_and_tells_anew() -> None:
    pipeline = make_pipeline(num_blocks=8, max_num_tokens=5, enable_block_reuse=False)
    pipeline.context.add(make_request(7, num_prompt=4, max_tokens=20))
    request = add_context(pipeline)
    for _ in range(60):
        pipeline.context.step()
        pipeline.go_on()
    assert pipeline.context.stats.num_preemptions_total > 0
    assert pipeline.context.handover.num_announced > 1
    second = enter(pipeline, request)
    finish(pipeline, second)


def test_a_piece_takes_no_block_from_those_who_wait_or_run() -> None:
    pipeline = make_pipeline(generation={"num_blocks": 6})
    waiting = [make_request(i, num_prompt=12, max_tokens=9) for i in (5, 6)]
    pipeline.generation.add(*waiting)
    pipeline.generation.step()
    add_context(pipeline)
    pipeline.context.step()
    pipeline.tell()
    pipeline.generation.step()
    assert not pipeline.pieces
    pipeline.generation.run()
    assert pipeline.generation.stats.num_preemptions_total == 0
    assert [pipeline.generation.tokens(r.id) for r in waiting] == [tokens_alone(r, 9) for r in waiting]


def test_a_piece_that_is_here_already_is_not_fetched() -> None:
    pipeline = make_pipeline()
    pipeline.generation.add(make_request(5, prompt=PROMPT, max_tokens=1))
    pipeline.generation.run()
    request = add_context(pipeline)
    for _ in range(3):
        pipeline.context.step()
        pipeline.tell()
        pipeline.generation.core.receive(timeout_s=0)
        assert not pipeline.pieces
    finish(pipeline, enter(pipeline, request))


@pytest.mark.parametrize("comes", [True, False])
def test_a_request_waits_for_its_piece_that_is_on_its_way_and_nobody_else_does(comes: bool) -> None:
    pipeline = make_pipeline()
    request = add_context(pipeline)
    pipeline.context.step(2)
    pipeline.tell()
    pipeline.generation.core.receive(timeout_s=0)
    [key] = pipeline.pieces
    pipeline.context.run()
    second, other = enter(pipeline, request), make_request(5)
    pipeline.generation.add(other)
    pipeline.generation.run()
    assert pipeline.generation.tokens(5) == tokens_alone(other, 6)
    assert pipeline.generation.stats.num_waiting == 1
    if comes:
        pipeline.read(key)
    pipeline.check(key)
    pipeline.generation.step()
    assert num_fetched(pipeline) == (2 if comes else 6)
    finish(pipeline, second)


def test_what_is_told_after_its_request_came_is_not_fetched_twice() -> None:
    pipeline = make_pipeline()
    request = add_context(pipeline)
    pipeline.context.run()
    second = enter(pipeline, request)
    assert num_fetched(pipeline) == 6
    pipeline.tell()
    pipeline.generation.core.receive(timeout_s=0)
    assert not pipeline.pieces
    finish(pipeline, second)


def test_a_request_that_waits_for_its_piece_can_be_cancelled() -> None:
    pipeline = make_pipeline()
    request = add_context(pipeline)
    pipeline.context.step(2)
    pipeline.tell()
    pipeline.generation.core.receive(timeout_s=0)
    [key] = pipeline.pieces
    pipeline.context.run()
    enter(pipeline, request)
    pipeline.generation.cancel(1)
    pipeline.generation.run()
    assert pipeline.generation.last(1).finish_reason == "cancelled"
    pipeline.check(key)
    pipeline.generation.run()
    pipeline.generation.assert_empty()


def test_a_server_that_ends_begins_no_piece_and_waits_for_those_on_their_way() -> None:
    pipeline = make_pipeline()
    add_context(pipeline)
    pipeline.context.step()
    pipeline.tell()
    core = pipeline.generation.core
    core.receive(timeout_s=0)
    [key] = pipeline.pieces
    assert core._lifecycle.is_fetching
    pipeline.read(key)
    pipeline.check(key)
    core.receive(timeout_s=0)
    assert not core._lifecycle.is_fetching


def test_the_salt_keeps_pieces_apart() -> None:
    pipeline = make_pipeline()
    request = add_context(pipeline, cache_salt="a")
    for _ in range(3):
        pipeline.context.step()
        pipeline.go_on()
    other = make_request(3, prompt=PROMPT)
    pipeline.generation.add(other)
    pipeline.generation.run()
    assert pipeline.generation.first(3).num_cached_tokens == 0
    second = enter(pipeline, request)
    assert num_fetched(pipeline) == 2
    finish(pipeline, second)
