"""What requests want changed in their logits, against Hugging Face's logits processors and the obvious."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers.plain_sampler import edit
from transformers import (
    LogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from trtdisagg.engine.request import SamplingParams
from trtdisagg.engine.sampling import History, Row, sample

VOCAB = 40
TOKENS = [3, 7, 7, 1, 39, 7, 2, 3]
"""The prompt is the first four."""
LOGITS = (np.random.default_rng(0).standard_normal(VOCAB) * 3).astype(np.float32)


def row(position: int = 8, **sampling: Any) -> Row:
    return Row(SamplingParams(max_tokens=1, **sampling), position, tokens=TOKENS, num_prompt=4)


def processed(*processors: LogitsProcessor) -> torch.Tensor:
    scores = torch.from_numpy(LOGITS)[None]
    for processor in processors:
        scores = processor(torch.tensor([TOKENS]), scores)
    return scores[0]


@pytest.mark.parametrize("penalty", [0.7, 1.3])
def test_repetition_penalty_is_of_prompt_and_output(penalty: float) -> None:
    expected = processed(RepetitionPenaltyLogitsProcessor(penalty))
    assert edit(LOGITS, row(repetition_penalty=penalty)) == pytest.approx(expected.numpy())


def test_presence_and_frequency_penalty_are_of_the_output() -> None:
    expected = LOGITS.copy()
    for token, count in {39: 1, 7: 1, 2: 1, 3: 1}.items():
        expected[token] -= 0.5 + 0.25 * count
    assert edit(LOGITS, row(presence_penalty=0.5, frequency_penalty=0.25)) == pytest.approx(expected)
    twice = row(frequency_penalty=-0.25)._replace(num_prompt=1)  # token 7 is in there three times
    assert edit(LOGITS, twice)[7] == pytest.approx(LOGITS[7] + 0.75)


def test_logit_bias() -> None:
    expected = processed(SequenceBiasLogitsProcessor([[[5], 2.5], [[39], -100.0]]))
    assert edit(LOGITS, row(logit_bias={5: 2.5, 39: -100, VOCAB: 3})) == pytest.approx(expected.numpy())


def test_bad_words() -> None:
    words = [[4], [2, 3, 11], [3, 12], [7, 3, 13], [7, 2, 3, 14], [1, 2, 3, 15], [*TOKENS, 16], [9, *TOKENS, 17]]
    expected = processed(NoBadWordsLogitsProcessor(words))
    edited = edit(LOGITS, row(bad_words=words))
    assert set(np.flatnonzero(np.isneginf(edited))) == {4, 11, 12, 14, 16}
    assert edited == pytest.approx(expected.numpy())


def test_what_the_mask_lacks_does_not_come() -> None:
    allowed = {0, 31, 32, 39}
    mask = np.zeros(2, np.int32)
    for token in allowed:
        mask[token // 32] |= np.array(1 << (token % 32), np.uint32).astype(np.int32)
    free = [row(i, temperature=5.0)._replace(mask=mask) for i in range(300)]
    assert {token for token, _ in sample(torch.from_numpy(LOGITS).expand(300, -1), free)} == allowed
    short = [r._replace(mask=mask[:1]) for r in free]
    assert {token for token, _ in sample(torch.from_numpy(LOGITS).expand(300, -1), short)} == {0, 31}


@pytest.mark.parametrize(
    ("options", "warpers"),
    [
        ({"top_k": 7}, [TopKLogitsWarper(7)]),
        ({"top_p": 0.8}, [TopPLogitsWarper(0.8)]),
        ({"min_p": 0.1}, [MinPLogitsWarper(0.1)]),
        ({"top_k": 9, "top_p": 0.7, "min_p": 0.2}, [TopKLogitsWarper(9), TopPLogitsWarper(0.7), MinPLogitsWarper(0.2)]),
    ],
)
def test_what_is_left_to_draw_from(options: dict[str, Any], warpers: list[LogitsProcessor]) -> None:
    left = set(torch.nonzero(processed(*warpers).isfinite()).flatten().tolist())
    rows = [row(position, **options) for position in range(3000)]
    assert {token for token, _ in sample(torch.from_numpy(LOGITS).expand(3000, -1), rows)} == left


def test_a_history_that_is_followed_counts_as_one_from_scratch() -> None:
    rng = np.random.default_rng(1)
    tokens, history = rng.integers(0, 300, 50).tolist(), History()
    for _ in range(60):
        tokens += rng.integers(0, 300, int(rng.integers(0, 9))).tolist()
        assert history.follow(tokens, 50) == History().follow(tokens, 50)
    ids, counts = history.follow(tokens, 50)
    assert sorted(ids) == sorted(set(tokens))
    assert list(counts) == [tokens[50:].count(i) for i in ids]
