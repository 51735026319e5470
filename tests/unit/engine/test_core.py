"""Requests through the loop: right tokens, right endings, and every block back."""

from __future__ import annotations

import pytest
from fakes.runner import tokens_alone
from helpers.engine import EOS, HandDriven, make_request

from trtdisagg.engine.request import Request


def assert_as_alone(engine: HandDriven, *requests: Request) -> None:
    for request in requests:
        assert engine.tokens(request.id) == tokens_alone(request, request.sampling.max_tokens), request
        assert engine.last(request.id).finish_reason == "length"


@pytest.mark.parametrize("max_num_tokens", [3, 8, 16, 100])
@pytest.mark.parametrize("tokens_per_block", [1, 4, 8])
def test_a_batch_gives_each_what_it_gets_alone(max_num_tokens: int, tokens_per_block: int) -> None:
    engine = HandDriven(max_num_tokens=max_num_tokens, tokens_per_block=tokens_per_block, num_blocks=80)
    requests = [make_request(i, num_prompt=1 + 3 * i, max_tokens=9 - i) for i in range(8)]
    requests += [make_request(i, 5, 6, sampling={"temperature": 1.0, "seed": i, "top_p": 0.9}) for i in (8, 9)]
    engine.add(*requests[:3])
    engine.step(2)
    engine.add(*requests[3:])
    engine.run()
    assert_as_alone(engine, *requests)
    engine.assert_empty()


def test_prompts_shorter_and_longer_than_a_block() -> None:
    engine = HandDriven(tokens_per_block=4)
    requests = [make_request(n, num_prompt=n, max_tokens=5) for n in range(1, 10)]
    engine.add(*requests)
    engine.run()
    assert_as_alone(engine, *requests)


def test_outputs_come_as_they_are_made() -> None:
    engine = HandDriven()
    engine.add(make_request(1, max_tokens=3))
    for _ in range(3):
        engine.step()
    assert [len(o.new_token_ids) for o in engine.outputs[1]] == [1, 1, 1]
    assert [o.finish_reason for o in engine.outputs[1]] == [None, None, "length"]


# --- endings --------------------------------------------------------------------------------------------------------


def first_tokens(num: int = 6) -> list[int]:
    return tokens_alone(make_request(1), num)


def test_it_ends_at_the_end_of_sequence() -> None:
    sampling = {"temperature": 1.0, "ignore_eos": False}
    request = next(
        r for r in (make_request(i, 5, 40, sampling=sampling) for i in range(99)) if EOS in tokens_alone(r, 20)
    )
    expected = tokens_alone(request, 40, stop_ids=frozenset({EOS}))
    engine = HandDriven()
    engine.add(request)
    engine.run()
    assert engine.tokens(request.id) == expected
    assert (engine.last(request.id).finish_reason, engine.last(request.id).stop_token_id) == ("stop", EOS)
    engine.assert_empty()


def test_end_of_sequence_can_be_ignored_and_stop_tokens_still_end_it() -> None:
    stop = first_tokens()[3]
    engine = HandDriven()
    engine.add(make_request(1, sampling={"stop_token_ids": frozenset({stop})}))
    engine.run()
    assert engine.tokens(1) == first_tokens()[: first_tokens().index(stop) + 1]
    assert engine.last(1).stop_token_id == stop


def test_no_stop_token_comes_before_min_tokens() -> None:
    stop = first_tokens()[0]
    request = make_request(1, max_tokens=30, sampling={"stop_token_ids": frozenset({stop}), "min_tokens": 7})
    engine = HandDriven()
    engine.add(request)
    engine.run()
    assert engine.tokens(1) == tokens_alone(request, 30, stop_ids=frozenset({stop}))
    assert stop not in engine.tokens(1)[:7]


@pytest.mark.parametrize("num_known", [1, 2, 5])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_request_goes_on_from_the_tokens_it_brings(num_known: int, temperature: float) -> None:
    sampling = {"temperature": temperature, "seed": 3}
    whole = tokens_alone(make_request(1, max_tokens=8, sampling=sampling), 8)
    engine = HandDriven(max_num_tokens=4)
    engine.add(make_request(1, max_tokens=8, sampling=sampling, output_token_ids=whole[:num_known]))
    engine.run()
    assert engine.tokens(1) == whole[num_known:]
    assert engine.last(1).finish_reason == "length"


def test_min_tokens_counts_the_tokens_it_brings() -> None:
    known = first_tokens(2)
    request = make_request(1, max_tokens=9, output_token_ids=known)
    stop = tokens_alone(request, 5)[0]
    for min_tokens, ends_at in ((2, 1), (3, None)):
        engine = HandDriven()
        sampling = {"stop_token_ids": frozenset({stop}), "min_tokens": min_tokens}
        engine.add(make_request(1, max_tokens=9, output_token_ids=known, sampling=sampling))
        engine.run()
        assert (engine.tokens(1)[:1] == [stop]) == (ends_at == 1)


@pytest.mark.parametrize(
    ("max_tokens", "stop_ids", "reason", "stop"), [(2, [], "length", None), (9, [7], "stop", 7), (9, [5], None, None)]
)
def test_a_request_that_brings_all_its_tokens_ends_at_once(
    max_tokens: int, stop_ids: list[int], reason: str | None, stop: int | None
) -> None:
    engine = HandDriven()
    sampling = {"stop_token_ids": frozenset(stop_ids)}
    engine.add(make_request(1, max_tokens=max_tokens, output_token_ids=[5, 7], sampling=sampling))
    engine.step()
    if reason is None:
        assert engine.stats.num_running == 1
        return
    assert (engine.last(1).finish_reason, engine.last(1).stop_token_id) == (reason, stop)
    assert engine.tokens(1) == []
    engine.assert_empty()


# --- cancel ---------------------------------------------------------------------------------------------------------


def test_cancel_while_waiting_running_and_after_the_end() -> None:
    engine = HandDriven(max_batch_size=1)
    engine.add(make_request(1, max_tokens=50), make_request(2), make_request(3))
    engine.step(2)
    engine.cancel(2)
    engine.step()
    assert engine.last(2).finish_reason == "cancelled"
    engine.cancel(1)
    engine.step()
    assert engine.last(1).finish_reason == "cancelled"
    engine.run()
    assert_as_alone(engine, make_request(3))
    for request_id in (1, 2, 3, 99):
        engine.cancel(request_id)
    engine.run()
    assert all(len([o for o in outs if o.finish_reason]) == 1 for outs in engine.outputs.values())
    engine.assert_empty()


def test_cancel_between_two_chunks_of_a_prompt() -> None:
    engine = HandDriven(max_num_tokens=4)
    engine.add(make_request(1, num_prompt=20))
    engine.step(2)
    engine.cancel(1)
    engine.run()
    assert engine.last(1).finish_reason == "cancelled"
    engine.assert_empty()


def test_cancel_in_the_same_breath_as_the_request() -> None:
    engine = HandDriven()
    engine.add(make_request(1))
    engine.cancel(1)
    engine.run()
    assert engine.last(1).finish_reason == "cancelled"
    assert not engine.runner.steps
    engine.assert_empty()


# --- faults ---------------------------------------------------------------------------------------------------------


def test_logits_that_are_not_numbers_end_that_request_alone() -> None:
    bad, good = make_request(1, num_prompt=5), make_request(2, num_prompt=5)
    engine = HandDriven()
    engine.runner.nan_tokens = {tokens_alone(bad, 2)[1]} - set(tokens_alone(good, 6))
    engine.add(bad, good)
    engine.run()
    assert engine.last(1).finish_reason == "error"
    assert "no finite logits" in (engine.last(1).error or "")
    assert_as_alone(engine, good)
    engine.assert_empty()


def test_a_step_that_raises_ends_its_requests_and_the_engine_goes_on() -> None:
    engine = HandDriven(max_batch_size=2)
    engine.add(make_request(1), make_request(2), make_request(3))
    engine.runner.failure = RuntimeError("out of luck")
    engine.step()
    engine.runner.failure = None
    engine.run()
    for request_id in (1, 2):
        assert engine.last(request_id).finish_reason == "error"
        assert "RuntimeError: out of luck" in (engine.last(request_id).error or "")
    assert_as_alone(engine, make_request(3))
    assert engine.core.broken is None
    assert engine.stats.num_failed_total == 2
    engine.assert_empty()


def test_three_failed_steps_in_a_row_break_the_engine_but_not_two() -> None:
    engine = HandDriven(max_batch_size=1)
    engine.runner.failure = ValueError("no")
    engine.add(make_request(1), make_request(2))
    engine.step(2)
    engine.runner.failure = None
    engine.add(make_request(3))
    engine.run()
    assert_as_alone(engine, make_request(3))

    engine.runner.failure = ValueError("no")
    engine.add(*(make_request(i) for i in range(4, 9)))
    engine.step(3)
    assert engine.core.broken is not None
    assert "ValueError: no" in engine.core.broken
    engine.add(make_request(9))
    engine.step()
    assert all("broken" in (engine.last(i).error or "") for i in (7, 8, 9))
    assert all(engine.last(i).finish_reason == "error" for i in range(4, 10))
    engine.assert_empty()


def test_wrong_rows_from_the_runner_are_a_failed_step() -> None:
    engine = HandDriven()
    run = engine.runner.run
    engine.runner.run = lambda step: run(step)[:0]  # type: ignore[method-assign]
    engine.add(make_request(1))
    engine.step()
    assert "0 rows of logits came, 1 were asked for" in (engine.last(1).error or "")
    engine.assert_empty()


def test_counters() -> None:
    engine = HandDriven(max_num_tokens=8)
    engine.add(make_request(1, num_prompt=10, max_tokens=3), make_request(2, num_prompt=3, max_tokens=1))
    engine.step()
    assert (engine.stats.num_running, engine.stats.num_used_blocks, engine.stats.num_prompt_tokens_total) == (2, 4, 8)
    engine.run()
    stats = engine.stats
    assert (stats.num_requests_total, stats.num_prompt_tokens_total, stats.num_generation_tokens_total) == (2, 13, 4)
    assert (stats.num_steps_total, stats.num_blocks) == (4, 32)
