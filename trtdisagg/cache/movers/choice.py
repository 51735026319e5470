"""Which way is the fastest for a fetch, by what was measured when two ranks met. Pure.

    pull          latency + bytes / rate + runs * time of a descriptor
    staged pull   the holder packs | we read one run and unpack      both at once, piece by piece
    push          the holder packs and writes | we unpack            likewise

The first piece goes through all stations one after the other, and each piece takes a request and its answer, several of
which are on their way at once.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

PIECES_UNDERWAY = 3
"""Of one fetch: one is packed, one travels, one is unpacked."""

Way = Literal["pull", "staged pull", "push"]

_WORTH_NOTING_S = 0.001
"""What is computed to be shorter says little of the way."""
_LEARNT = 0.3
"""Weight of the last fetch."""
_DRIFT = 0.02


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Of one pair of ranks."""

    latency_s: float
    """Of a read of a few bytes."""
    read_bytes_s: float
    """Bytes a second of one large read."""
    descriptor_s: float
    """What one more run of a read costs."""
    copy_bytes_s: float
    """Bytes a second of a copy within our memory; theirs is taken to be as fast."""
    write_bytes_s: float | None = None
    """Bytes a second of one large write by the peer; None: it cannot write here."""
    request_s: float | None = None
    """Of a request for a piece and its answer; None: the peer does not help, all is pulled."""


class Experience:
    """What fetches over a link took, in units of what had been computed for them.

    Figures that were measured on a busy machine, or with all memory in the cache, are off, for one way more than for
    another. A way that was not used for long drifts to where those are that are: whatever slows one, slows the others.
    """

    def __init__(self) -> None:
        self._ratios: dict[Way, float] = dict.fromkeys(get_args(Way), 1.0)

    def corrected(self, way: Way, computed_s: float) -> float:
        return computed_s * self._ratios[way]

    def note(self, way: Way, computed_s: float, taken_s: float) -> None:
        """A fetch has gone this way."""
        if computed_s < _WORTH_NOTING_S:
            return
        self._ratios[way] += _LEARNT * (taken_s / computed_s - self._ratios[way])
        for other in self._ratios:
            self._ratios[other] += _DRIFT * (self._ratios[way] - self._ratios[other])


def compute(figures: Figures, num_bytes: int, num_runs: int, piece_bytes: int) -> dict[Way, float]:
    """Seconds by each way there is.

    :param piece_bytes: how much goes at once where it is staged; 0: nothing may be.
    """
    times: dict[Way, float] = {"pull": _pull_s(figures, num_bytes, num_runs)}
    if piece_bytes and figures.request_s is not None:
        copy = 1 / figures.copy_bytes_s
        reading = 1 / figures.read_bytes_s
        times["staged pull"] = _staged_s(figures, num_bytes, piece_bytes, copy, reading + copy)
        if figures.write_bytes_s is not None:
            times["push"] = _staged_s(figures, num_bytes, piece_bytes, copy + 1 / figures.write_bytes_s, copy)
    return times


def choose(times: dict[Way, float], experience: Experience) -> Way:
    """The fastest, by what was computed and what was learnt."""
    return min(times, key=lambda way: experience.corrected(way, times[way]))


def _pull_s(figures: Figures, num_bytes: int, num_runs: int) -> float:
    return figures.latency_s + num_bytes / figures.read_bytes_s + num_runs * figures.descriptor_s


def _staged_s(figures: Figures, num_bytes: int, piece_bytes: int, theirs: float, ours: float) -> float:
    """
    :param theirs: seconds a byte that the holder works on it, while we are at the piece before.
    :param ours: the same of us.
    """
    assert figures.request_s is not None
    first = min(piece_bytes, num_bytes)
    num_pieces = -(-num_bytes // piece_bytes)
    busy_s = num_bytes * max(theirs, ours) + first * min(theirs, ours)
    return busy_s + num_pieces * figures.request_s / PIECES_UNDERWAY
