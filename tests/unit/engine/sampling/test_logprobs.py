"""Log probabilities are the model's own, whatever else a request asks for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from trtdisagg.engine.request import SamplingParams
from trtdisagg.engine.sampling import Row, sample, token_logprobs

LOGITS = torch.randn(6, 2000, generator=torch.manual_seed(0)) * 4
LOGPROBS = LOGITS.double().log_softmax(-1)


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0},
        {"temperature": 1.7, "top_p": 0.8},
        {"temperature": 3.0, "repetition_penalty": 1.5, "logit_bias": {7: 50}, "bad_words": [[8]]},
    ],
)
def test_of_a_sampled_token_and_the_most_probable(options: dict[str, Any]) -> None:
    rows = [Row(SamplingParams(max_tokens=1, num_logprobs=4, **options), i, tokens=range(2000)) for i in range(6)]
    for expected, (token, logprob) in zip(LOGPROBS, sample(LOGITS, rows), strict=True):
        assert token is not None
        assert logprob is not None
        assert logprob.token_id == token
        assert logprob.logprob == pytest.approx(expected[token].item(), abs=1e-5)
        best = expected.topk(4)
        assert [i for i, _ in logprob.top] == best.indices.tolist()
        assert [p for _, p in logprob.top] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_none_and_zero_are_two_things() -> None:
    rows = [Row(SamplingParams(max_tokens=1, num_logprobs=n), 0) for n in (None, 0, 1)]
    nothing, alone, one = (logprob for _, logprob in sample(LOGITS[:3], rows))
    assert nothing is None
    assert alone is not None
    assert alone.top == []
    assert one is not None
    assert len(one.top) == 1


def test_of_given_tokens() -> None:
    found = token_logprobs(LOGITS, [5, 0, 1999, 3, 3, 3], num_top=2)
    for row, (token, one) in enumerate(zip([5, 0, 1999, 3, 3, 3], found, strict=True)):
        assert one.token_id == token
        assert one.logprob == pytest.approx(LOGPROBS[row, token].item(), abs=1e-5)
        assert [i for i, _ in one.top] == LOGPROBS[row].topk(2).indices.tolist()


def test_what_is_not_possible_is_not_among_the_most_probable() -> None:
    logits = torch.full((1, 100), -np.inf)
    logits[0, [3, 70]] = 1.0
    [found] = token_logprobs(logits, [4], num_top=5)
    assert found.logprob == -math.inf
    assert found.top == [(3, pytest.approx(-math.log(2))), (70, pytest.approx(-math.log(2)))]


def test_of_a_row_that_is_not_numbers() -> None:
    logits = LOGITS[:2].clone()
    logits[1, 77] = np.nan
    first, second = token_logprobs(logits, [1, 1], num_top=3)
    assert len(first.top) == 3
    assert math.isnan(second.logprob)
    assert second.top == []
