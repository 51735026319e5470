"""From outcomes to the figures of a report. Knows what each figure means, and nothing of how outcomes come about.

    TTFT   sent -> first token                       of streams
    TPOT   (last token - first token) / (tokens - 1)
    ITL    the gap before each chunk after the first, shared evenly by its tokens: k tokens after g ms are k times g / k
    E2EL   sent -> last token
    user throughput    tokens / E2EL, the mean over requests
    interactivity      1 / TPOT, the mean over requests

Where the server says how many tokens an answer has, and not how many each chunk has, all chunks of an answer count as
having the same number.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from trtdisagg.bench.serve.outcome import Outcome

Times = NDArray[np.float64]


class Timed(msgspec.Struct, frozen=True, kw_only=True):
    """The times of one completed request, in ms."""

    ttft: float | None
    """None, here and in the next: there is none, as it was not streamed, or has one token."""
    tpot: float | None
    itl: Times
    e2el: float

    def keeps(self, goodput: dict[str, float]) -> bool:
        """Whether no time is over its target; what there is none of is not. Of several gaps the mean counts."""
        itl = float(self.itl.mean()) if len(self.itl) else None
        found = {"ttft": self.ttft, "tpot": self.tpot, "itl": itl, "e2el": self.e2el}
        return all((time := found[name]) is None or time <= target for name, target in goodput.items())


def timed(outcome: Outcome) -> Timed:
    """
    :param outcome: of a completed request.
    """
    num_tokens, heard_at = outcome.num_tokens or 0, outcome.heard_at
    e2el = 1000 * (outcome.ended_at - outcome.sent_at)
    if not heard_at:
        return Timed(ttft=None, tpot=None, itl=np.empty(0), e2el=e2el)
    spread_ms = 1000 * (heard_at[-1] - heard_at[0])
    tpot = spread_ms / (num_tokens - 1) if num_tokens > 1 and len(heard_at) > 1 else None
    return Timed(ttft=1000 * (heard_at[0] - outcome.sent_at), tpot=tpot, itl=_gaps(outcome, num_tokens), e2el=e2el)


def _gaps(outcome: Outcome, num_tokens: int) -> Times:
    heard_at: Times = np.frombuffer(outcome.heard_at)
    gaps_ms: Times = 1000 * (heard_at[1:] - heard_at[:-1])
    if outcome.num_guessed:
        return gaps_ms / max(1.0, (num_tokens - 1) / max(1, len(gaps_ms)))
    num_by: NDArray[np.int64] = np.frombuffer(outcome.num_by, dtype=np.int64)
    nums = num_by[1:] - num_by[:-1]
    return np.repeat(gaps_ms / nums, nums)


def spread(name: str, values: Sequence[float] | Times) -> dict[str, float | None]:
    """The figures of one kind of time, by their keys in a report; all None where there are no values."""
    keys = [f"{kind}_{name}_ms" for kind in ("mean", "std", "median", "p50", "p90", "p99")]
    if not len(values):
        return dict.fromkeys(keys)
    found = (np.mean(values), np.std(values), *np.percentile(values, [50, 50, 90, 99]))
    return {key: round(float(value), 3) for key, value in zip(keys, found, strict=True)}
