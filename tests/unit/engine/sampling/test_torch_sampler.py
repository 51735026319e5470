"""What torch chooses on a device is what the definition chooses; on the CPU, too, where it is tested without one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.plain_sampler import PlainSampler
from helpers.sampling import assert_agree, assert_near, random_logits, random_row

from trtdisagg.engine.request import SamplingParams
from trtdisagg.engine.sampling import Row
from trtdisagg.engine.sampling.torch_sampler import TorchSampler


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return str(request.param)


def test_any_options_on_any_logits(device: str, num_rounds: int) -> None:
    for seed in range(40 * num_rounds):
        rng = np.random.default_rng(seed)
        logits = random_logits(rng, num_rows=4)
        rows = [random_row(rng, logits.shape[1]) for _ in logits]
        expected = PlainSampler().sample(torch.from_numpy(logits), rows)
        for one, other in zip(TorchSampler().sample(torch.tensor(logits, device=device), rows), expected, strict=True):
            assert_agree(one, other)


@pytest.mark.parametrize("options", [{}, {"top_p": 0.95}, {"top_k": 50}, {"temperature": 0}, {"num_logprobs": 5}])
def test_a_large_vocabulary(device: str, options: dict[str, float]) -> None:
    rng = np.random.default_rng(0)
    logits = torch.from_numpy((rng.standard_normal((3, 150_001)) * 3).astype(np.float32))
    rows = [Row(SamplingParams(max_tokens=1, seed=7, **options), position) for position in range(len(logits))]
    expected = PlainSampler().sample(logits, rows)
    for one, other in zip(TorchSampler().sample(logits.to(device), rows), expected, strict=True):
        assert_agree(one, other)


def test_logprobs_of_given_tokens(device: str) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        logits = torch.from_numpy(random_logits(rng, num_rows=5))
        tokens = rng.integers(logits.shape[1], size=5).tolist()
        num_top = int(rng.integers(0, 30))
        expected = PlainSampler().token_logprobs(logits, tokens, num_top)
        for one, other in zip(TorchSampler().token_logprobs(logits.to(device), tokens, num_top), expected, strict=True):
            assert_near(one, other)


@pytest.mark.gpu
def test_nothing_waits_for_the_device() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    rng = np.random.default_rng(3)
    logits = torch.randn(64, 5000, device="cuda")
    rows = [random_row(rng, 5000) for _ in range(64)]
    TorchSampler().sample(logits, rows)  # whatever is loaded at the first time
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = TorchSampler().draw(logits, rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(drawn.read()) == 64
