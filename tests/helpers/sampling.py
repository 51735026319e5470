"""Logits and rows at random, of all kinds, and whether two samplers agree about them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from trtdisagg.engine.request import SamplingParams, TokenLogprob
from trtdisagg.engine.sampling import Row, Sampled

Floats = npt.NDArray[np.float32]

VOCABULARIES = (1, 2, 5, 63, 64, 65, 100, 1000, 5003)
CHOICES: dict[str, tuple[float | int, ...]] = {
    "top_k": (1, 2, 5, 50, 500, 10_000),
    "top_p": (0, 0.1, 0.5, 0.9, 0.95, 0.999, 1 - 1e-12),
    "min_p": (0.01, 0.1, 0.5, 1),
    "repetition_penalty": (0.8, 1.1, 2),
    "presence_penalty": (0.8, -1),
    "frequency_penalty": (0.8, -1),
    "num_logprobs": (0, 1, 5, 20),
}


def random_logits(rng: np.random.Generator, num_rows: int) -> Floats:
    """Flat and steep, with ties, with tokens that are not possible, and rows that are not numbers."""
    shape = num_rows, int(rng.choice(VOCABULARIES))
    logits = rng.standard_normal(shape) * rng.choice([0.1, 1, 3, 8]) + rng.choice([0, 20])
    if rng.random() < 0.3:
        logits = np.round(logits)
    if rng.random() < 0.2:
        logits[rng.random(shape) < 0.3] = -np.inf
    if rng.random() < 0.1:
        logits[0, rng.integers(shape[1])] = rng.choice([np.nan, np.inf])
    return logits.astype(np.float32)


def random_row(rng: np.random.Generator, vocab: int) -> Row:
    """Each option is there or not, and some ids are not in the vocabulary."""

    def may() -> bool:
        return bool(rng.random() < 0.3)

    options: dict[str, Any] = {name: rng.choice(values).item() for name, values in CHOICES.items() if may()}
    options["temperature"] = float(rng.choice([0, 0.3, 0.8, 1, 1.5, 3, 1e-6, 1e-30, 1e300]))
    if may():
        options["logit_bias"] = {int(i): float(rng.normal() * 5) for i in rng.integers(vocab + 1, size=3)}
    if may():
        options["bad_words"] = [[int(rng.integers(vocab))], *rng.integers(vocab, size=(5, 2)).tolist()]
    tokens = rng.integers(0, vocab + 1, int(rng.integers(0, 200))).tolist()
    return Row(
        SamplingParams(max_tokens=1, seed=int(rng.integers(2**62)), **options),
        position=int(rng.integers(10_000)),
        choice=int(rng.integers(3)),
        banned_ids=frozenset(rng.integers(vocab, size=2).tolist()) if may() else (),
        tokens=tokens,
        num_prompt=len(tokens) // 2,
        mask=rng.integers(-(2**31), 2**31, (vocab + 31) // 32).astype(np.int32) if may() else None,
    )


def assert_agree(found: Sampled, expected: Sampled) -> None:
    assert found.token == expected.token
    assert (found.logprob is None) == (expected.logprob is None)
    if found.logprob is not None and expected.logprob is not None:
        assert_near(found.logprob, expected.logprob)


def assert_near(found: TokenLogprob, expected: TokenLogprob) -> None:
    assert found.token_id == expected.token_id
    assert found.logprob == pytest.approx(expected.logprob, rel=1e-5, abs=1e-5, nan_ok=True)
    assert [i for i, _ in found.top] == [i for i, _ in expected.top]
    assert [p for _, p in found.top] == pytest.approx([p for _, p in expected.top], rel=1e-5, abs=1e-5)
