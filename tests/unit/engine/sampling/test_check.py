"""What has no meaning is refused by name; what is let through is sampled."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from trtdisagg.engine.request import SamplingParams
from trtdisagg.engine.sampling import Row, check_sampling, sample
from trtdisagg.errors import RequestError

VOCAB = 100


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_k", 2**31),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e300),
        ("presence_penalty", -math.inf),
        ("frequency_penalty", math.nan),
        ("num_logprobs", VOCAB + 1),
        ("num_prompt_logprobs", -1),
        ("logit_bias", {3: math.inf}),
        ("logit_bias", {VOCAB: 1.0}),
        ("bad_words", [[1], [2, 2**40]]),
        ("stop_token_ids", frozenset({-1})),
    ],
)
def test_what_has_no_meaning_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(RequestError) as refused:
        check_sampling(SamplingParams(max_tokens=1, **{name: value}), VOCAB)
    assert refused.value.param == name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", math.inf),
        ("temperature", 5e-324),
        ("top_k", 2**31 - 1),
        ("top_p", 0.0),
        ("top_p", math.nextafter(1, 0)),
        ("min_p", 5e-324),
        ("repetition_penalty", 1e-4),
        ("repetition_penalty", 1e4),
        ("presence_penalty", -1e4),
        ("frequency_penalty", 1e4),
        ("num_logprobs", VOCAB),
        ("logit_bias", {3: -1e4}),
        ("bad_words", [[], [1], [2] * 1000]),
        ("seed", -(2**80)),
    ],
)
def test_the_most_extreme_of_what_is_let_through_can_be_sampled(name: str, value: Any) -> None:
    sampling = SamplingParams(max_tokens=1, **{name: value})
    check_sampling(sampling, VOCAB)
    logits = torch.randn(1, VOCAB, generator=torch.manual_seed(0)) * 30
    [(token, _)] = sample(logits, [Row(sampling, 4, tokens=[1, 2, 1, 50], num_prompt=2)])
    assert token is not None
