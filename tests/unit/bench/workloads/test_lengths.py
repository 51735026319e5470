from __future__ import annotations

import statistics
from random import Random

import pytest

from trtdisagg.bench.workloads.lengths import Normal, Uniform, parse_lengths
from trtdisagg.errors import ConfigError


@pytest.mark.parametrize(
    ("words", "lengths"),
    [
        ("512", Uniform(512, 512)),
        ("128:512", Uniform(128, 512)),
        ("uniform:128:512", Uniform(128, 512)),
        ("uniform:128,512", Uniform(128, 512)),
        ("normal:512,50", Normal(512, 50)),
        ("Normal:512:0.5", Normal(512, 0.5)),
    ],
)
def test_each_form(words: str, lengths: object) -> None:
    assert parse_lengths(words) == lengths


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", "is no length; lengths are"),
        ("512 tokens", "is no length"),
        ("-3", "is no length"),
        ("normal:512", "is no length"),
        ("poisson:512", "is no length"),
        ("0", "at least 1 token"),
        ("0:5", "at least 1 token"),
        ("512:128", "512 is more than 128"),
        ("normal:0.2,1", "a mean of at least 1"),
    ],
)
def test_what_is_no_length_is_told(words: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        parse_lengths(words)
    assert repr(words) in caught.value.message


def test_moments() -> None:
    random = Random(7)
    drawn = [Normal(512, 50).draw(random) for _ in range(20_000)]
    assert statistics.fmean(drawn) == pytest.approx(512, abs=2)
    assert statistics.stdev(drawn) == pytest.approx(50, rel=0.03)
    drawn = [Uniform(128, 512).draw(random) for _ in range(20_000)]
    assert (min(drawn), max(drawn)) == (128, 512)
    assert statistics.fmean(drawn) == pytest.approx(320, abs=3)
    assert statistics.stdev(drawn) == pytest.approx((512 - 128) / 12**0.5, rel=0.03)


def test_a_wide_normal_never_asks_for_nothing() -> None:
    random = Random(1)
    assert min(Normal(2, 50).draw(random) for _ in range(100)) == 1


def test_a_single_length_is_always_the_same() -> None:
    random = Random(1)
    assert {parse_lengths("64").draw(random) for _ in range(10)} == {64}
