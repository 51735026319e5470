"""The load that is asked about: arrivals and lengths, drawn once for all clusters that are compared. Pure."""

from __future__ import annotations

from random import Random

import msgspec
import numpy as np
from numpy.typing import NDArray

from trtdisagg.bench.workloads.lengths import Lengths


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    """What a good request keeps."""

    ttft_ms: float | None = None
    tpot_ms: float | None = None
    percentile: float = 99.0
    """A cluster keeps them when so many of a hundred requests keep all of them."""

    @property
    def words(self) -> str:
        """`TTFT <= 500 ms and TPOT <= 30 ms for 99 % of requests`"""
        bounds = [("TTFT", self.ttft_ms), ("TPOT", self.tpot_ms)]
        kept = " and ".join(f"{name} <= {ms:g} ms" for name, ms in bounds if ms is not None)
        return f"{kept} for {self.percentile:g} % of requests" if kept else ""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """Requests: at a rate, or by clients of which each asks again when it is answered."""

    num_prompt: NDArray[np.int64]
    """[requests] tokens."""
    num_output: NDArray[np.int64]
    gaps: NDArray[np.float64]
    """[requests] between arrivals at a rate of one a second."""
    request_rate: float | None = None
    """Requests a second."""
    concurrency: int | None = None

    @property
    def arrivals(self) -> NDArray[np.float64]:
        """[requests] seconds; none, where clients wait for their answers."""
        if self.request_rate is None:
            return np.empty(0)
        return np.cumsum(self.gaps) / self.request_rate

    def at(self, request_rate: float) -> Load:
        return msgspec.structs.replace(self, request_rate=request_rate, concurrency=None)


def make_load(
    isl: Lengths,
    osl: Lengths,
    *,
    num_requests: int,
    request_rate: float | None = None,
    concurrency: int | None = None,
    seed: int = 0,
) -> Load:
    """
    :param request_rate: with exponential gaps; with neither this nor `concurrency` the rate is still to be said.
    """
    random = Random(seed)
    lengths = [(isl.draw(random), osl.draw(random)) for _ in range(num_requests)]
    num_prompt, num_output = np.array(lengths, np.int64).T.copy()
    return Load(
        num_prompt=num_prompt,
        num_output=num_output,
        gaps=np.random.default_rng(seed).exponential(1.0, num_requests),
        request_rate=request_rate,
        concurrency=concurrency,
    )
