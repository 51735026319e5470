"""Several answers to one prompt: each as if it were alone, the prompt computed once."""

from __future__ import annotations

import pytest
from fakes.runner import tokens_alone
from helpers.engine import HandDriven, make_limits, make_request

from trtdisagg.engine.request import Request
from trtdisagg.errors import ContextLengthError, RequestError

SAMPLED = {"temperature": 1.0, "seed": 5}


def make_choices(request_id: int, num_choices: int, num_prompt: int = 6, max_tokens: int = 9) -> Request:
    return make_request(request_id, num_prompt, max_tokens, num_choices=num_choices, sampling=SAMPLED)


def assert_as_alone(engine: HandDriven, request: Request, *, but: frozenset[int] = frozenset()) -> None:
    for choice in set(range(request.num_choices)) - but:
        expected = tokens_alone(request, request.sampling.max_tokens, choice=choice)
        assert engine.tokens(request.id, choice) == expected
        assert engine.last(request.id, choice).finish_reason == "length"


@pytest.mark.parametrize("num_prompt", [1, 3, 4, 6, 8])
@pytest.mark.parametrize("policy", ["max_utilization", "guaranteed_no_evict"])
def test_each_choice_is_what_it_is_alone_and_the_prompt_is_computed_once(num_prompt: int, policy: str) -> None:
    engine = HandDriven(tokens_per_block=4, max_num_tokens=5, max_batch_size=5, scheduler_policy=policy)
    request, other = make_choices(1, 4, num_prompt), make_request(2)
    engine.add(request, other)
    engine.run()
    assert_as_alone(engine, request)
    assert len({tuple(engine.tokens(1, c)) for c in range(4)}) == 4
    assert engine.tokens(2) == tokens_alone(other, 6)
    assert engine.stats.num_prompt_tokens_total == num_prompt + 5
    engine.assert_empty()


def test_full_blocks_of_the_prompt_are_shared() -> None:
    engine = HandDriven(tokens_per_block=4, max_num_tokens=20)
    engine.add(make_choices(1, 3, num_prompt=10))
    engine.step(2)
    assert engine.stats.num_used_blocks == 2 + 3
    assert engine.stats.num_running == 3


def test_choices_count_in_the_batch() -> None:
    engine = HandDriven(max_batch_size=3)
    engine.add(make_choices(1, 3), make_choices(2, 2))
    engine.step()
    assert (engine.stats.num_running, engine.stats.num_waiting) == (3, 1)
    engine.run()
    for request in (make_choices(1, 3), make_choices(2, 2)):
        assert_as_alone(engine, request)
    engine.assert_empty()


def test_choices_make_room_for_each_other() -> None:
    engine = HandDriven(tokens_per_block=4, num_blocks=6)
    request = make_choices(1, 4, num_prompt=6, max_tokens=16)  # 6 blocks each, one of them shared
    engine.add(request)
    engine.run()
    assert_as_alone(engine, request)
    assert engine.stats.num_preemptions_total > 0
    engine.assert_empty()


@pytest.mark.parametrize("num_steps", [0, 1, 2, 5])
@pytest.mark.parametrize("choice", [0, 1, 2])
def test_one_choice_is_cancelled_and_the_others_go_on(num_steps: int, choice: int) -> None:
    engine = HandDriven(max_num_tokens=4, max_batch_size=4)
    request = make_choices(1, 3)
    engine.add(request)
    engine.step(num_steps)
    engine.cancel(1, choice)
    engine.run()
    assert engine.last(1, choice).finish_reason == "cancelled"
    assert_as_alone(engine, request, but=frozenset({choice}))
    engine.assert_empty()


@pytest.mark.parametrize("num_steps", [0, 1, 2, 5])
def test_all_are_cancelled_at_once(num_steps: int) -> None:
    engine = HandDriven(max_num_tokens=4, max_batch_size=4, scheduler_policy="guaranteed_no_evict")
    engine.add(make_choices(1, 3))
    engine.step(num_steps)
    engine.cancel(1)
    engine.run()
    assert [engine.last(1, c).finish_reason for c in range(3)] == ["cancelled"] * 3
    engine.assert_empty()


def test_one_by_one_they_are_all_cancelled_before_they_are_born() -> None:
    engine = HandDriven(max_num_tokens=4, max_batch_size=4)
    engine.add(make_choices(1, 3))
    engine.step()
    for choice in (0, 2, 1):
        engine.cancel(1, choice)
    engine.run()
    assert [engine.last(1, c).finish_reason for c in range(3)] == ["cancelled"] * 3
    engine.assert_empty()


def test_choices_that_end_with_their_first_token_leave_nothing() -> None:
    engine = HandDriven(tokens_per_block=4)
    engine.add(make_choices(1, 4, max_tokens=1))
    engine.run()
    assert_as_alone(engine, make_choices(1, 4, max_tokens=1))
    engine.assert_empty()


def test_a_failed_step_ends_all_choices() -> None:
    for num_steps in (0, 1, 3):
        engine = HandDriven(max_num_tokens=4, max_batch_size=4)
        engine.add(make_choices(1, 3))
        engine.step(num_steps)
        engine.runner.failure = RuntimeError("no")
        engine.step()
        engine.runner.failure = None
        engine.run()
        assert [engine.last(1, c).finish_reason for c in range(3)] == ["error"] * 3
        engine.assert_empty()


def test_what_is_refused_is_said_of_every_choice() -> None:
    engine = HandDriven()
    engine.add(make_choices(1, 2, max_tokens=30))
    engine.step()
    engine.add(make_choices(1, 2))
    engine.step()
    assert [o.choice for o in engine.outputs[1] if o.finish_reason == "error"] == [0, 1]


def test_more_choices_than_there_is_room_for_are_refused() -> None:
    limits = make_limits(max_batch_size=4, num_blocks=8, tokens_per_block=4, scheduler_policy="guaranteed_no_evict")
    for n in (0, 5):
        with pytest.raises(RequestError, match=f"n is {n}; this server runs 1 to 4"):
            limits.check(make_choices(1, n))
    limits.check(make_choices(1, 4, num_prompt=4, max_tokens=4))
    with pytest.raises(ContextLengthError, match="needs 9 blocks at once"):
        limits.check(make_choices(1, 4, num_prompt=4, max_tokens=6))
    for kind in ("context_only", "generation_only"):
        with pytest.raises(RequestError, match="two servers give one answer"):
            limits.check(make_request(1, num_choices=2, type=kind))
