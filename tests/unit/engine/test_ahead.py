"""Steps that are launched before they are planned: used when the guess was right, harmless when it was not.

That any history gives the same tokens with and without is shown in test_histories: half of its engines do so.
"""

from __future__ import annotations

from fakes.handover import ticket
from fakes.runner import tokens_alone
from helpers.engine import EOS, HandDriven, make_request


def make_engine(**limits: int) -> HandDriven:
    return HandDriven(ahead=True, **limits)


def num_used(engine: HandDriven) -> int:
    assert engine.core.ahead is not None
    return engine.core.ahead.num_used


def test_every_step_of_generation_is_launched_ahead() -> None:
    engine = make_engine(tokens_per_block=4, num_blocks=20)
    requests = [make_request(i, prompt=[5 + i, 6], max_tokens=9, sampling={"ignore_eos": True}) for i in range(3)]
    engine.add(*requests)
    engine.run()
    assert [engine.tokens(r.id) for r in requests] == [tokens_alone(r, 9) for r in requests]
    assert len(engine.runner.steps) == 1, "only the prompts' step was not known before"
    assert num_used(engine) == 8
    engine.assert_empty()


def test_whoever_ends_meanwhile_is_left_out_and_the_others_use_their_rows() -> None:
    engine = make_engine()
    requests = [make_request(i, prompt=[9 + i], max_tokens=6 - 2 * i, sampling={"ignore_eos": True}) for i in range(3)]
    engine.add(*requests)
    engine.run()
    assert [len(engine.tokens(i)) for i in range(3)] == [6, 4, 2]
    assert [engine.tokens(r.id) for r in requests] == [tokens_alone(r, r.sampling.max_tokens) for r in requests]
    assert len(engine.runner.steps) == 1


def test_a_newcomer_makes_the_guess_wrong_and_nothing_else() -> None:
    engine = make_engine()
    first, second = (make_request(i, prompt=[20 + i], max_tokens=8, sampling={"ignore_eos": True}) for i in range(2))
    engine.add(first)
    for _ in range(3):
        engine.step()
    engine.add(second)
    engine.run()
    assert [engine.tokens(r.id) for r in (first, second)] == [tokens_alone(r, 8) for r in (first, second)]
    assert len(engine.runner.steps) == 2


def test_a_token_that_ends_the_answer_was_followed_in_vain() -> None:
    engine = make_engine()
    request = make_request(1, prompt=[3], max_tokens=8, sampling={"ignore_eos": True})
    expected = tokens_alone(request, 8)
    stopped = make_request(2, prompt=[3], max_tokens=8, sampling={"stop_token_ids": frozenset({expected[3]})})
    engine.add(stopped)
    engine.run()
    tokens = engine.tokens(2)
    assert tokens[-1] == expected[3] or tokens[-1] == EOS
    assert tokens == expected[: len(tokens)]
    engine.assert_empty()


def test_blocks_of_who_has_ended_are_not_fetched_into_while_they_may_be_written_to() -> None:
    engine = make_engine(tokens_per_block=2, num_blocks=4, enable_block_reuse=False)
    request = make_request(1, prompt=[3, 4, 5], max_tokens=5, sampling={"ignore_eos": True})
    stop = tokens_alone(request, 5)[1]
    engine.add(make_request(1, prompt=[3, 4, 5], max_tokens=5, sampling={"stop_token_ids": frozenset({stop})}))
    while not engine.runner.late_blocks() or engine.last(1).finish_reason is None:
        engine.step()
    fields = {"type": "generation_only", "output_token_ids": [9], "ticket": ticket(2, 6, [0, 1, 2])}
    engine.add(make_request(2, prompt=[6, 7, 8, 6, 7, 8], max_tokens=3, **fields))
    engine.step()
    assert 2 in engine.handover.fetches, "the fake asserts that nothing is written late into these blocks"
