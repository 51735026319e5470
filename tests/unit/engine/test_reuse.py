"""What was computed is found again, never more than is the same, and the tokens stay what they are."""

from __future__ import annotations

import pytest
from fakes.runner import tokens_alone
from helpers.engine import BlockFollower, HandDriven, make_request

from trtdisagg.engine.messages import Broken
from trtdisagg.engine.request import Request


def with_prompt(request_id: int, prompt: list[int], max_tokens: int = 3, **fields: object) -> Request:
    return make_request(request_id, max_tokens=max_tokens, prompt=prompt, **fields)


def run(engine: HandDriven, *requests: Request) -> list[int]:
    """Each alone, one after the other: how many tokens of its prompt were there."""
    for request in requests:
        engine.add(request)
        engine.run()
        assert engine.tokens(request.id) == tokens_alone(request, request.sampling.max_tokens)
    return [engine.first(r.id).num_cached_tokens for r in requests]


PROMPT = list(range(1, 11))


def test_the_same_prompt_again_computes_its_last_token_alone() -> None:
    engine = HandDriven(tokens_per_block=4)
    assert run(engine, with_prompt(1, PROMPT), with_prompt(2, PROMPT), with_prompt(3, PROMPT[:8])) == [0, 9, 7]
    assert engine.stats.num_prompt_tokens_total == 10 + 1 + 1
    engine.assert_empty()


@pytest.mark.parametrize(
    ("prompt", "num_cached"),
    [
        ([*PROMPT, 11, 12, 13], 10),
        ([*PROMPT[:9], 40, 41], 9),
        ([*PROMPT[:6], 40, 41], 6),
        ([*PROMPT[:4], 40, 41], 4),
        ([*PROMPT[:1], 40, 41], 1),
        ([40, *PROMPT], 0),
        (PROMPT[:1], 0),
    ],
)
def test_it_is_found_as_far_as_it_is_the_same(prompt: list[int], num_cached: int) -> None:
    engine = HandDriven(tokens_per_block=4)
    assert run(engine, with_prompt(1, PROMPT, max_tokens=1), with_prompt(2, prompt)) == [0, num_cached]


def test_without_partial_reuse_only_full_blocks_are_found() -> None:
    engine = HandDriven(tokens_per_block=4, enable_partial_reuse=False)
    assert run(engine, with_prompt(1, PROMPT), with_prompt(2, PROMPT), with_prompt(3, PROMPT[:8])) == [0, 8, 4]


def test_without_reuse_nothing_is_found() -> None:
    engine = HandDriven(tokens_per_block=4, enable_block_reuse=False)
    assert run(engine, with_prompt(1, PROMPT), with_prompt(2, PROMPT)) == [0, 0]
    assert engine.stats.num_cached_blocks == 0


def test_an_answer_is_found_by_the_prompt_that_goes_on_from_it() -> None:
    engine = HandDriven(tokens_per_block=4)
    first = with_prompt(1, PROMPT, max_tokens=8)
    turn = PROMPT + tokens_alone(first, 8) + [33, 34]
    assert run(engine, first, with_prompt(2, turn)) == [0, 17]


def test_requests_of_different_salts_share_nothing() -> None:
    engine = HandDriven(tokens_per_block=4)
    salted = [with_prompt(i, PROMPT, cache_salt=salt) for i, salt in enumerate((None, "a", "b", "a", None))]
    assert run(engine, *salted) == [0, 0, 0, 9, 9]


def test_two_at_once_end_with_one_copy_of_what_they_share() -> None:
    engine = HandDriven(tokens_per_block=4, max_num_tokens=100)
    requests = [with_prompt(i, PROMPT, max_tokens=20, sampling={"temperature": 1.0, "seed": i}) for i in (1, 2)]
    engine.add(*requests)
    engine.step(2)
    assert engine.stats.num_used_blocks == 2 + 1 + 1
    engine.run()
    assert all(engine.tokens(r.id) == tokens_alone(r, 20) for r in requests)
    engine.assert_empty()


def test_what_others_found_is_not_written_to() -> None:
    engine = HandDriven(tokens_per_block=4)
    running = with_prompt(1, PROMPT, max_tokens=30)
    engine.add(running)
    engine.step(4)
    run(engine, *(with_prompt(i, PROMPT[:n], max_tokens=6) for i, n in enumerate(range(1, 11), start=2)))
    engine.run()
    assert engine.tokens(1) == tokens_alone(running, 30)


def test_room_is_made_by_forgetting() -> None:
    engine = HandDriven(tokens_per_block=4, num_blocks=4)
    prompts = [[i] * 12 for i in range(1, 5)]
    assert run(engine, *(with_prompt(i, p, max_tokens=1) for i, p in enumerate(prompts))) == [0, 0, 0, 0]
    assert run(engine, with_prompt(9, prompts[-1], max_tokens=1)) == [11]


def test_a_request_that_needs_the_whole_pool_gets_it_whatever_is_in_it() -> None:
    engine = HandDriven(tokens_per_block=4, num_blocks=3)
    assert run(engine, with_prompt(1, PROMPT, max_tokens=3), with_prompt(2, PROMPT, max_tokens=3)) == [0, 8]
    engine.assert_empty()


def test_logits_that_are_not_numbers_are_found_by_nobody() -> None:
    engine = HandDriven(tokens_per_block=4)
    assert run(engine, with_prompt(1, PROMPT)) == [0]
    engine.runner.nan_tokens = {40}
    engine.add(with_prompt(2, [*PROMPT, 40]))
    engine.run()
    assert engine.last(2).finish_reason == "error"
    engine.runner.nan_tokens = set()
    assert run(engine, with_prompt(3, [*PROMPT, 40])) == [0]


def test_a_copy_that_failed_with_its_step_is_made_with_the_next() -> None:
    engine = HandDriven(tokens_per_block=4, max_num_tokens=2, max_batch_size=2)
    assert run(engine, with_prompt(1, PROMPT, max_tokens=1)) == [0]
    run_step = engine.runner.run
    engine.runner.run = lambda step: 1 / 0  # type: ignore[assignment, return-value, method-assign]
    engine.add(with_prompt(2, [*range(20, 28)], max_tokens=1), with_prompt(3, [*PROMPT[:6], 40, 41], max_tokens=4))
    engine.step()  # 2 has all of the step, 3 only its copy
    engine.runner.run = run_step  # type: ignore[method-assign]
    engine.run()
    assert engine.last(2).finish_reason == "error"
    assert engine.tokens(3) == tokens_alone(with_prompt(3, [*PROMPT[:6], 40, 41]), 4)
    assert engine.first(3).num_cached_tokens == 6
    engine.assert_empty()


def test_cancelled_before_its_copy_was_made_it_leaves_nothing_wrong_to_be_found() -> None:
    engine = HandDriven(tokens_per_block=4, max_num_tokens=2, max_batch_size=2)
    assert run(engine, with_prompt(1, PROMPT, max_tokens=1)) == [0]
    engine.runner.failure = RuntimeError("no")
    engine.add(with_prompt(2, [*range(20, 28)], max_tokens=1), with_prompt(3, [*PROMPT[:6], 40, 41], max_tokens=4))
    engine.step()
    engine.runner.failure = None
    engine.cancel(3)
    engine.run()
    engine.assert_empty()
    run(engine, with_prompt(4, [*PROMPT[:6], 40, 41], max_tokens=4))


def test_counters_say_how_much_was_found() -> None:
    engine = HandDriven(tokens_per_block=4)
    run(engine, with_prompt(1, PROMPT), with_prompt(2, PROMPT))
    assert (engine.stats.num_reused_blocks_total, engine.stats.num_missed_blocks_total) == (2, 3 + 1)
    assert engine.stats.num_cached_blocks > 0


def test_events_tell_what_can_be_found() -> None:
    engine = HandDriven(tokens_per_block=4, num_blocks=3, event_buffer_max_size=100)
    run(engine, with_prompt(1, PROMPT, max_tokens=1), with_prompt(2, [40] * 12, max_tokens=1))
    kinds = [type(e.data).__name__ for e in engine.core.take_kv_events()]
    assert kinds == ["Created", "Stored", "Stored", "Removed", "Removed", "Stored", "Stored", "Stored"]


@pytest.mark.parametrize("dp_size", [1, 3])
def test_who_follows_the_blocks_knows_what_can_be_found(dp_size: int) -> None:
    engine = HandDriven(tokens_per_block=4, num_blocks=6, dp_size=dp_size)
    late, leaving = BlockFollower(), BlockFollower()
    engine.listen(leaving)
    for i in range(12):
        engine.add(with_prompt(i, [1 + i % 3] * (4 + i), max_tokens=2))
        engine.step(2)
        if i == 4:
            engine.listen(late)
        if i == 6:
            engine.listen(leaving, is_over=True)
            engine.step()
            num_told = leaving.num_told
    engine.run()
    assert engine.follower.hashes
    engine.assert_followed(late)
    assert leaving.num_told == num_told < engine.follower.num_told


def test_who_follows_the_blocks_learns_that_nothing_is_trusted_any_more() -> None:
    engine = HandDriven(tokens_per_block=4)
    run(engine, with_prompt(1, PROMPT))
    assert engine.follower.hashes
    engine.core.inbox.put(Broken("no reason"))
    engine.step()
    assert not engine.follower.hashes
    engine.assert_followed()
