"""The kernels choose what the definition chooses, for each instruction set, on anything."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.plain_sampler import PlainSampler
from helpers.sampling import assert_agree, assert_near, random_logits, random_row

from trtdisagg.cache.native import extension
from trtdisagg.engine.request import SamplingParams
from trtdisagg.engine.sampling import Row
from trtdisagg.engine.sampling.native import NativeSampler

csrc = extension()
pytestmark = pytest.mark.skipif(csrc is None, reason="built without a C++ compiler")


@pytest.fixture(params=csrc.isas() if csrc else [])
def native(request: pytest.FixtureRequest) -> NativeSampler:
    assert csrc is not None
    return NativeSampler(csrc, csrc.Workers(2), request.param)


def test_any_options_on_any_logits(native: NativeSampler, num_rounds: int) -> None:
    for seed in range(100 * num_rounds):
        rng = np.random.default_rng(seed)
        logits = random_logits(rng, num_rows=4)
        rows = [random_row(rng, logits.shape[1]) for _ in logits]
        values = torch.from_numpy(logits)
        expected = PlainSampler().sample(values, rows)
        for one, other in zip(native.sample(values, rows), expected, strict=True):
            assert_agree(one, other)


@pytest.mark.parametrize("options", [{}, {"top_p": 0.95}, {"top_k": 50}, {"min_p": 0.05}, {"num_logprobs": 5}])
def test_a_large_vocabulary_shared_out_among_threads(
    native: NativeSampler, options: dict[str, float], num_rounds: int
) -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy((rng.standard_normal((4 * num_rounds, 150_001)) * 3).astype(np.float32))
    rows = [Row(SamplingParams(max_tokens=1, seed=7, **options), position) for position in range(len(logits))]
    for one, other in zip(native.sample(logits, rows), PlainSampler().sample(logits, rows), strict=True):
        assert_agree(one, other)


def test_logprobs_of_given_tokens(native: NativeSampler) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        logits = torch.from_numpy(random_logits(rng, num_rows=5))
        tokens = rng.integers(logits.shape[1], size=5).tolist()
        num_top = int(rng.integers(0, 30))
        expected = PlainSampler().token_logprobs(logits, tokens, num_top)
        for one, other in zip(native.token_logprobs(logits, tokens, num_top), expected, strict=True):
            assert_near(one, other)


def test_no_rows(native: NativeSampler) -> None:
    assert native.sample(torch.empty(0, 100), []) == []
    assert native.token_logprobs(torch.empty(0, 100), [], 3) == []
