"""A sample has the right distribution, and depends on nothing but seed, choice, position and logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from helpers.plain_sampler import hash_ids

from trtdisagg.engine.request import SamplingParams
from trtdisagg.engine.sampling import Row, sample
from trtdisagg.engine.sampling.key import make_key

PROBABILITIES = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
LOGITS = np.log(PROBABILITIES).astype(np.float32)


def row(position: int = 0, banned_ids: tuple[int, ...] = (), choice: int = 0, **sampling: Any) -> Row:
    return Row(SamplingParams(max_tokens=1, **sampling), position, choice, banned_ids)


def tokens_of(logits: npt.NDArray[np.float32], rows: list[Row]) -> list[int | None]:
    parts = range(0, len(rows), 500)  # to be copied: a test may have spread one row over thousands
    return [token for i in parts for token, _ in sample(torch.tensor(logits[i : i + 500]), rows[i : i + 500])]


def draw(logits: npt.NDArray[np.float32], num: int, first: int = 0, **sampling: Any) -> npt.NDArray[np.int64]:
    """Sample the same logits at many positions."""
    rows = [row(position, **sampling) for position in range(first, first + num)]
    return np.array(tokens_of(np.broadcast_to(logits, (num, len(logits))), rows))


def assert_distributed(tokens: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> None:
    """Chi-square against the expected counts; chance alone would pass the bound about once in ten thousand times."""
    possible = probabilities > 0
    counts = np.bincount(tokens, minlength=len(probabilities))
    assert not counts[~possible].any()
    expected = probabilities[possible] / probabilities.sum() * len(tokens)
    chi2 = ((counts[possible] - expected) ** 2 / expected).sum()
    df = possible.sum() - 1
    assert chi2 < df + 4 * np.sqrt(2 * df) + 7


@pytest.mark.parametrize("seed", [0, 1, -3, 2**63, 2**80 + 1])
def test_tokens_come_by_their_probability(seed: int) -> None:
    assert_distributed(draw(LOGITS, 4000, seed=seed), PROBABILITIES)


def test_so_do_those_of_many_seeds_at_one_position() -> None:
    rows = [row(position=17, seed=seed) for seed in range(4000)]
    tokens = np.array(tokens_of(np.broadcast_to(LOGITS, (4000, 5)), rows))
    assert_distributed(tokens, PROBABILITIES)


def test_neighbouring_positions_are_independent() -> None:
    tokens = draw(LOGITS, 8001, seed=5)
    pairs = tokens[:-1] * 5 + tokens[1:]
    assert_distributed(pairs, np.outer(PROBABILITIES, PROBABILITIES).ravel())


def test_a_large_vocabulary_is_sampled_in_all_its_parts() -> None:
    """Only few candidates get a logarithm; that must not show. A flat tail holds two thirds of the mass."""
    logits = np.zeros(30_000, np.float32)
    logits[0] = np.log(15_000)
    tokens = draw(logits, 3000)
    parts = np.where(tokens == 0, 0, 1 + tokens // 3000)
    assert_distributed(parts, np.array([1 / 3] + [2 / 30] * 10))


def test_temperature_sharpens() -> None:
    assert_distributed(draw(LOGITS, 4000, temperature=0.5), PROBABILITIES**2)
    assert_distributed(draw(LOGITS, 4000, temperature=2.0), PROBABILITIES**0.5)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        ({"top_k": 1}, 1),
        ({"top_k": 3}, 3),
        ({"top_k": 99}, 5),
        ({"top_p": 0.35}, 1),
        ({"top_p": 0.45}, 2),
        ({"top_p": 0.75}, 3),
        ({"top_p": 0.999}, 5),
        ({"top_k": 2, "top_p": 0.5}, 1),  # of the two that are left the first has 4/7
        ({"top_k": 2, "top_p": 0.6}, 2),
    ],
)
def test_top_k_and_top_p_leave_the_most_probable(sampling: dict[str, Any], kept: int) -> None:
    shuffled = np.array([3, 0, 4, 1, 2])
    probabilities = np.where(np.arange(5) < kept, PROBABILITIES, 0)[shuffled]
    assert_distributed(draw(LOGITS[shuffled], 3000, **sampling), probabilities)


def test_the_nucleus_may_reach_into_the_tail() -> None:
    """Most of the mass lies in tokens that are a ten-thousandth as probable as the top."""
    logits = np.full(40_000, np.log(1e-4), np.float32)
    logits[7] = 0
    assert {int(t) for t in draw(logits, 50, top_p=0.19)} == {7}
    assert len({int(t) for t in draw(logits, 50, top_p=0.9)}) > 30


def test_equals_are_kept_together() -> None:
    logits = np.log(np.array([0.4, 0.2, 0.2, 0.2])).astype(np.float32)
    assert_distributed(draw(logits, 3000, top_k=2), np.array([0.4, 0.2, 0.2, 0.2]))


def test_greedy_takes_the_greatest() -> None:
    logits = np.random.default_rng(0).standard_normal((20, 300), np.float32)
    assert tokens_of(logits, [row(temperature=0)] * 20) == list(logits.argmax(1))


@pytest.mark.parametrize("temperature", [1e-3, 1e-8, 1e-30, 1e-45, 1e-50, 5e-324])
def test_a_tiny_temperature_is_greedy(temperature: float) -> None:
    assert set(draw(LOGITS[::-1].copy(), 50, temperature=temperature)) == {4}


def test_a_sample_is_a_pure_function_whatever_the_company() -> None:
    rng = np.random.default_rng(1)
    logits = (rng.standard_normal((32, 1001)) * 3).astype(np.float32)
    kinds: list[dict[str, Any]] = [{}, {"temperature": 0}, {"top_k": 9}, {"top_p": 0.8}, {"temperature": 0.7}]
    rows = [row(position=i, seed=i * i, **kinds[i % 5]) for i in range(32)]
    together = tokens_of(logits, rows)
    assert together == [tokens_of(logits[i : i + 1], rows[i : i + 1])[0] for i in range(32)]
    order = rng.permutation(32)
    assert [together[i] for i in order] == tokens_of(logits[order], [rows[i] for i in order])


def test_seed_choice_and_position_each_change_what_is_drawn() -> None:
    logits = np.zeros((1, 50_000), np.float32)
    [same], [again] = tokens_of(logits, [row()]), tokens_of(logits, [row()])
    assert same == again
    others = [row(seed=1), row(choice=1), row(position=1), row(seed=1, choice=1), row(seed=1, position=1)]
    assert len({same, *(tokens_of(logits, [r])[0] for r in others)}) == 6


def test_all_bits_of_the_key_count() -> None:
    ids = np.arange(1000)
    assert len({hash_ids(ids, key).tobytes() for key in (0, *(1 << bit for bit in range(64)))}) == 65


def test_noise_of_neighbours_is_unlike() -> None:
    """Half of the bits differ between one position, seed or choice and the next, and between one token and the next."""
    ids = np.arange(20_000)
    noise = hash_ids(ids, make_key(5, 0, 9))
    others = [hash_ids(ids, make_key(*parts)) for parts in ((5, 0, 10), (6, 0, 9), (5, 1, 9), (0, 5, 9), (9, 0, 5))]
    for other in (*others, np.roll(noise, 1), np.roll(others[0], 1)):
        assert 0.495 < np.unpackbits((noise ^ other).view(np.uint8)).mean() < 0.505


def test_what_is_drawn_is_the_same_in_every_version() -> None:
    """Servers of two versions may share a request; a change here is one of the wire version."""
    rows = [row(), row(seed=1), row(position=1), row(choice=1), row(seed=2**63 + 5, position=8191)]
    assert tokens_of(np.zeros((5, 50_000), np.float32), rows) == [1398, 39359, 48393, 6978, 2449]


def test_small_differences_rarely_change_what_is_drawn() -> None:
    """What makes a request that moves to another server go on the same where rounding differs."""
    rng = np.random.default_rng(2)
    logits = (rng.standard_normal((500, 200)) * 2).astype(np.float32)
    rows = [row(position=i) for i in range(500)]
    other = logits + rng.standard_normal(logits.shape).astype(np.float32) * 1e-3
    assert sum(a != b for a, b in zip(tokens_of(logits, rows), tokens_of(other, rows), strict=True)) <= 5


def test_banned_tokens_never_come_and_the_logits_are_left_alone() -> None:
    logits = LOGITS[None].copy()
    assert tokens_of(logits, [row(temperature=0, banned_ids=(0, 1))]) == [2]
    assert (logits == LOGITS).all()
    many = np.broadcast_to(LOGITS, (2000, 5))
    tokens = np.array(tokens_of(many, [row(i, banned_ids=(0, 3)) for i in range(2000)]))
    assert_distributed(tokens, PROBABILITIES * [0, 1, 1, 0, 1])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_not_numbers_gives_nothing_and_the_others_go_on(wrong: float, temperature: float) -> None:
    logits = np.stack([LOGITS, LOGITS, LOGITS])
    logits[1, 3] = wrong
    first, second, third = tokens_of(logits, [row(temperature=temperature)] * 3)
    assert second is None
    assert first == third is not None


def test_nothing_comes_when_all_is_banned() -> None:
    assert tokens_of(LOGITS[None], [row(banned_ids=(0, 1, 2, 3, 4))]) == [None]
