"""Log probabilities and logits, of prompts and answers, are those of a model that sees the tokens alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fakes.runner import VOCAB_SIZE, logits_after, tokens_alone
from helpers.engine import HandDriven, make_limits, make_request

from trtdisagg.engine import limits as limits_module
from trtdisagg.engine.request import Output, Request, TokenLogprob
from trtdisagg.errors import RequestError


def rows(tokens: list[int], start: int, end: int) -> torch.Tensor:
    """What follows each of the tokens from `start` on."""
    found = [logits_after(tokens[: i + 1]) for i in range(start, end)]
    return torch.from_numpy(np.stack(found) if found else np.empty((0, VOCAB_SIZE), np.float32))


def assert_logprobs(found: list[TokenLogprob], tokens: list[int], start: int, num_top: int) -> None:
    """They are those of the tokens from `start` on."""
    expected = torch.log_softmax(rows(tokens, start - 1, len(tokens) - 1), -1)
    assert [f.token_id for f in found] == tokens[start:]
    for reading, row, token in zip(found, expected, tokens[start:], strict=True):
        assert reading.logprob == pytest.approx(float(row[token]), abs=1e-5)
        values, ids = row.topk(num_top)
        assert [i for i, _ in reading.top] == ids.tolist()
        assert [v for _, v in reading.top] == pytest.approx(values.tolist(), abs=1e-5)


def check_prompt(request: Request, first: Output) -> None:
    prompt = request.prompt_token_ids
    assert_logprobs(first.prompt_logprobs, prompt, 1, request.sampling.num_prompt_logprobs or 0)
    if request.wants_context_logits:
        assert torch.equal(first.context_logits, rows(prompt, 0, len(prompt)))


@pytest.mark.parametrize("max_num_tokens", [4, 7, 100])
@pytest.mark.parametrize("num_choices", [1, 3])
def test_of_a_prompt_whatever_its_chunks(max_num_tokens: int, num_choices: int) -> None:
    engine = HandDriven(max_num_tokens=max_num_tokens, max_batch_size=4)
    sampling = {"num_prompt_logprobs": 2, "temperature": 1.0}
    requests = [
        make_request(1, 9, 4, sampling=sampling, num_choices=num_choices, wants_context_logits=True),
        make_request(2, 5, 4),
        make_request(3, 1, 4, sampling=sampling, wants_context_logits=True),
    ]
    engine.add(*requests)
    engine.run()
    for request in (requests[0], requests[2]):
        check_prompt(request, engine.first(request.id))
        others = [o for o in engine.outputs[request.id] if o is not engine.first(request.id)]
        assert all(not o.prompt_logprobs and o.context_logits is None for o in others)
    assert engine.tokens(2) == tokens_alone(requests[1], 4)
    engine.assert_empty()


def test_of_a_prompt_that_is_there_already_it_is_computed_all_the_same() -> None:
    engine = HandDriven()
    plain = make_request(1, 9, 2)
    request = make_request(1, 9, 2, sampling={"num_prompt_logprobs": 1})
    for r in (plain, request):
        engine.outputs.clear()
        engine.add(r)
        engine.run()
    check_prompt(request, engine.first(1))
    assert engine.first(1).num_cached_tokens == 0


def test_of_a_prompt_that_was_preempted_they_are_told_once_and_whole() -> None:
    engine = HandDriven(num_blocks=6, tokens_per_block=2, max_num_tokens=3, max_batch_size=3)
    sampling = {"num_prompt_logprobs": 1}
    requests = [make_request(i, 6 if i else 2, 5, sampling=sampling, wants_context_logits=True) for i in range(3)]
    engine.add(*requests)
    engine.run()
    assert engine.stats.num_preemptions_total > 0
    for request in requests:
        check_prompt(request, engine.first(request.id))
        assert engine.tokens(request.id) == tokens_alone(request, 5)


def test_behind_a_handover_they_are_of_the_prompt_alone() -> None:
    engine = HandDriven(max_num_tokens=4, max_batch_size=2)
    request = make_request(
        1, 6, 5, output_token_ids=[3, 4], type="generation_only", sampling={"num_prompt_logprobs": 1}
    )
    engine.add(request)
    engine.run()
    check_prompt(request, engine.first(1))


def test_of_an_answer_one_for_each_token() -> None:
    engine = HandDriven()
    request = make_request(1, 5, 6, sampling={"num_logprobs": 3, "temperature": 0.7}, num_choices=2)
    request = Request(
        id=1,
        prompt_token_ids=request.prompt_token_ids,
        sampling=request.sampling,
        num_choices=2,
        wants_generation_logits=True,
    )
    engine.add(request)
    engine.run()
    for choice in range(2):
        outputs = [o for o in engine.outputs[1] if o.choice == choice]
        tokens = request.prompt_token_ids + engine.tokens(1, choice)
        assert_logprobs([lp for o in outputs for lp in o.logprobs], tokens, 5, 3)
        found = torch.cat([o.generation_logits for o in outputs if o.generation_logits is not None])
        assert torch.equal(found, rows(tokens, 4, 10))


def test_the_first_token_of_a_handover_has_its_own() -> None:
    engine = HandDriven()
    engine.add(make_request(1, 5, 6, type="context_only", sampling={"num_logprobs": 1}))
    engine.run()
    assert engine.last(1).finish_reason == "not_finished"
    assert_logprobs(engine.last(1).logprobs, make_request(1).prompt_token_ids + engine.tokens(1), 5, 1)


def test_the_logits_of_a_step_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "MAX_STEP_LOGITS_BYTES", 4 * VOCAB_SIZE * 6)
    engine = HandDriven(max_num_tokens=20, max_batch_size=4)
    requests = [make_request(i, 9, 5, sampling={"num_prompt_logprobs": 0}) for i in range(3)]
    engine.add(*requests, make_request(7, 15, 5))
    while engine.step():
        assert sum(c.num_logits for c in engine.runner.steps[-1].chunks) <= 6
    for request in requests:
        check_prompt(request, engine.first(request.id))


def test_more_logits_than_an_answer_can_carry_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "MAX_CONTEXT_LOGITS_BYTES", 4 * VOCAB_SIZE * 9)
    make_limits().check(make_request(1, 9, wants_context_logits=True))
    with pytest.raises(RequestError, match="logits of 10 tokens"):
        make_limits().check(make_request(1, 10, wants_context_logits=True))
