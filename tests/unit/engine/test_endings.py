"""Requests that end otherwise than by their tokens: their time is over, their guide ends or fails."""

from __future__ import annotations

import pytest
from fakes.guides import EVERY_THIRD, LENGTH, FakeGuide, FakeGuides
from fakes.handover import ticket
from fakes.runner import FakeRunner, tokens_alone
from helpers.engine import HandDriven, make_limits, make_request

from trtdisagg.engine.executor import Executor
from trtdisagg.errors import RequestError
from trtdisagg.protocol.guide import GuideSpec

# --- time -----------------------------------------------------------------------------------------------------------


def test_a_request_ends_when_its_time_is_over_running_or_waiting() -> None:
    engine = HandDriven(max_batch_size=1)
    engine.add(make_request(1, max_tokens=40, timeout_s=5), make_request(2, timeout_s=2), make_request(3))
    engine.step(3)
    engine.now_s += 2
    engine.step()
    assert engine.last(2).finish_reason == "timeout"
    assert engine.last(1).finish_reason is None
    engine.now_s += 3
    engine.step()
    assert engine.last(1).finish_reason == "timeout"
    assert engine.tokens(1) == tokens_alone(make_request(1), 4)
    engine.run()
    assert engine.tokens(3) == tokens_alone(make_request(3), 6)
    engine.assert_empty()


def test_all_choices_end_in_time_born_or_not() -> None:
    for num_steps in (0, 1, 4):
        engine = HandDriven(max_num_tokens=4, max_batch_size=4)
        engine.add(make_request(1, max_tokens=30, num_choices=3, timeout_s=1))
        engine.step(num_steps)
        engine.now_s += 1
        engine.run()
        assert [engine.last(1, c).finish_reason for c in range(3)] == ["timeout"] * 3
        engine.assert_empty()


def test_the_time_of_an_earlier_request_is_not_that_of_a_later_one_with_its_id() -> None:
    engine = HandDriven()
    engine.add(make_request(1, max_tokens=1, timeout_s=5))
    engine.run()
    engine.outputs.clear()
    engine.add(make_request(1, max_tokens=30))
    engine.step()
    engine.now_s += 6
    engine.run()
    assert engine.last(1).finish_reason == "length"


def test_a_fetch_that_takes_too_long_keeps_its_blocks_until_it_is_over() -> None:
    engine = HandDriven()
    engine.add(make_request(1, timeout_s=1, ticket=ticket(1, 5, [0, 1]), output_token_ids=[3]))
    engine.step()
    engine.now_s += 1
    engine.run()
    assert engine.last(1).finish_reason == "timeout"
    assert (engine.handover.forgotten, engine.stats.num_used_blocks) == ([1], 2)
    engine.handover.end_fetch(1)
    engine.run()
    engine.assert_empty()


def test_what_is_held_for_others_has_the_time_of_its_lease() -> None:
    engine = HandDriven()
    engine.add(make_request(1, timeout_s=1, type="context_only"))
    engine.run()
    engine.now_s += 2
    engine.run()
    assert engine.last(1).finish_reason == "not_finished"
    engine.handover.release(1)
    engine.run()
    engine.assert_empty()


def test_the_loop_wakes_for_a_deadline() -> None:
    with Executor(runner=FakeRunner(4), limits=make_limits(num_blocks=2, max_seq_len=8)) as executor:
        executor.enqueue_request(make_request(1, num_prompt=4, max_tokens=4, timeout_s=0.0))
        [output] = executor.await_responses(1, timeout_s=20)
        assert output.finish_reason == "timeout"


# --- guides ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "seed": 4}])
def test_a_guide_says_what_may_come_and_when_it_is_over(sampling: dict[str, float]) -> None:
    engine = HandDriven()
    request = make_request(1, max_tokens=20, guide=EVERY_THIRD, num_choices=2, sampling=sampling)
    engine.add(request, make_request(2))
    engine.run()
    for choice in range(2):
        tokens = engine.tokens(1, choice)
        assert [t % 3 for t in tokens] == [i % 3 for i in range(LENGTH)]
        assert tokens == tokens_alone(request, 20, choice=choice, guide=FakeGuide())
        assert (engine.last(1, choice).finish_reason, engine.last(1, choice).stop_token_id) == ("stop", None)
    assert engine.tokens(2) == tokens_alone(make_request(2), 6)


def test_a_preempted_answer_keeps_its_guide() -> None:
    engine = HandDriven(num_blocks=4, tokens_per_block=2, max_batch_size=4)
    requests = [make_request(i, num_prompt=2, max_tokens=6, guide=EVERY_THIRD) for i in range(4)]
    engine.add(*requests)
    engine.run()
    assert all(engine.tokens(r.id) == tokens_alone(r, 6, guide=FakeGuide()) for r in requests)
    assert engine.stats.num_preemptions_total > 0


def test_a_guide_that_raises_ends_its_choice_alone() -> None:
    engine = HandDriven()
    request = make_request(1, max_tokens=9, guide=EVERY_THIRD, num_choices=2, sampling={"temperature": 1.0})
    engine.add_guided(request, FakeGuide(fails_at=2), FakeGuide())
    engine.add(make_request(2))
    engine.run()
    assert "RuntimeError: a guide fails" in (engine.last(1, 0).error or "")
    assert len(engine.tokens(1, 0)) == 2
    assert engine.last(1, 1).finish_reason == "stop"
    assert engine.tokens(2) == tokens_alone(make_request(2), 6)
    assert engine.core.broken is None
    engine.assert_empty()


def test_a_guide_that_fails_before_the_first_token_does_not_take_the_others_along() -> None:
    for failing in range(2):
        engine = HandDriven()
        guides = [FakeGuide(fails_at=0 if i == failing else None) for i in range(2)]
        engine.add_guided(make_request(1, guide=EVERY_THIRD, num_choices=2), *guides)
        engine.run()
        assert engine.last(1, failing).finish_reason == "error"
        assert engine.last(1, 1 - failing).finish_reason == "stop"
        engine.assert_empty()


def test_a_guide_that_allows_nothing_is_an_error_that_says_so_and_nothing_is_forgotten() -> None:
    engine = HandDriven()
    engine.add_guided(make_request(1, guide=EVERY_THIRD), FakeGuide(allows_nothing_at=1))
    engine.run()
    assert "No token may come next" in (engine.last(1).error or "")
    assert engine.last(1).is_own_fault
    assert engine.stats.num_cached_blocks > 0
    engine.assert_empty()


def test_guides_are_opened_for_each_choice_behind_the_tokens_that_are_there() -> None:
    guides = FakeGuides()
    with Executor(runner=FakeRunner(4), limits=make_limits(), guides=guides) as executor:
        executor.enqueue_request(make_request(1, guide=EVERY_THIRD, num_choices=2, max_tokens=1))
        executor.enqueue_request(make_request(2, guide=EVERY_THIRD, output_token_ids=[3, 4], type="generation_only"))
        assert [g.accepted[:2] for g in guides.opened[2:]] == [[3, 4]]
        assert len(guides.opened) == 3
        outputs = []
        while not (outputs and outputs[-1].finish_reason):
            outputs += executor.await_responses(2, timeout_s=20)
        assert [t % 3 for o in outputs for t in o.new_token_ids] == [2, 0, 1]


def test_what_means_nothing_is_refused_before_it_enters() -> None:
    with Executor(runner=FakeRunner(4), limits=make_limits(), guides=FakeGuides()) as executor:
        with pytest.raises(RequestError, match="means nothing"):
            executor.enqueue_request(make_request(1, guide=GuideSpec(kind="regex", text="?")))
        with pytest.raises(RequestError, match="Token 5 of the output"):
            executor.enqueue_request(make_request(1, guide=EVERY_THIRD, output_token_ids=[5], type="generation_only"))
        executor.enqueue_request(make_request(1, max_tokens=1))
        assert executor.await_responses(1, timeout_s=20)
    unguided = Executor(runner=FakeRunner(4), limits=make_limits())
    with pytest.raises(RequestError, match="no guided decoding"):
        unguided.enqueue_request(make_request(1, guide=EVERY_THIRD))
