"""How long prompts and answers are: `512`, `128:512`, `uniform:128:512`, `normal:512,50`."""

from __future__ import annotations

import re
from random import Random
from typing import Protocol

import msgspec

from trtdisagg.errors import ConfigError

FORMS = "`512`, `128:512` (or `uniform:128:512`: both ends count) or `normal:512,50` (mean, standard deviation)"

_UNIFORM = re.compile(r"(?:uniform[:,])?(\d+)[:,](\d+)")
_NORMAL = re.compile(r"normal[:,](\d+(?:\.\d+)?)[:,](\d+(?:\.\d+)?)")


class Lengths(Protocol):
    """Numbers of tokens."""

    def draw(self, random: Random) -> int:
        """The next one, at least 1."""
        ...

    @property
    def longest(self) -> int:
        """That is to be expected; of a normal distribution three deviations above the mean."""
        ...


class Uniform(msgspec.Struct, frozen=True):
    """All numbers from `low` to `high` are equally likely; with `low == high` there is one."""

    low: int
    high: int

    def draw(self, random: Random) -> int:
        return random.randint(self.low, self.high)

    @property
    def longest(self) -> int:
        return self.high


class Normal(msgspec.Struct, frozen=True):
    """Rounded to whole tokens; what would be below 1 is 1."""

    mean: float
    stdev: float

    def draw(self, random: Random) -> int:
        return max(1, round(random.gauss(self.mean, self.stdev)))

    @property
    def longest(self) -> int:
        return round(self.mean + 3 * self.stdev)


def parse_lengths(words: str) -> Lengths:
    """Read one of the forms above.

    :raises ConfigError: when it is none of them, or says nothing that could be asked.
    """
    text = words.strip().lower()
    if text.isdecimal():
        return _uniform(words, int(text), int(text))
    if match := _UNIFORM.fullmatch(text):
        return _uniform(words, int(match[1]), int(match[2]))
    if match := _NORMAL.fullmatch(text):
        mean, stdev = float(match[1]), float(match[2])
        if mean < 1:
            raise ConfigError(f"{words!r}: a mean of at least 1 token is needed")
        return Normal(mean, stdev)
    raise ConfigError(f"{words!r} is no length; lengths are {FORMS}")


def _uniform(words: str, low: int, high: int) -> Uniform:
    if low < 1:
        raise ConfigError(f"{words!r}: at least 1 token is needed")
    if low > high:
        raise ConfigError(f"{words!r}: {low} is more than {high}")
    return Uniform(low, high)
