"""From a profile and a question to an answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from trtdisagg.bench.advise.checks import check_cluster, check_lengths
from trtdisagg.bench.advise.designs import designs
from trtdisagg.bench.advise.load import Load, Targets, make_load
from trtdisagg.bench.advise.profile import Profile
from trtdisagg.bench.advise.search import Row, search
from trtdisagg.bench.advise.verdict import Verdict, judge
from trtdisagg.bench.workloads.lengths import parse_lengths
from trtdisagg.config.load import load


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A load, and what it is to keep."""

    isl: str
    osl: str
    request_rate: float | None = None
    concurrency: int | None = None
    """With neither: how much can each cluster take?"""
    targets: Targets
    num_units: int | None = None
    """GPUs, or without any cores; None: those of the servers that were measured."""
    num_requests: int = 2000
    seed: int = 0

    @property
    def words(self) -> str:
        """`prompts of 1024 tokens, answers of 128, 4 requests/s`"""
        lengths = f"prompts of {self.isl} tokens, answers of {self.osl}"
        if self.request_rate:
            return f"{lengths}, {self.request_rate:g} requests/s"
        return f"{lengths}, {self.concurrency} at once" if self.concurrency else lengths

    def load(self) -> Load:
        return make_load(
            parse_lengths(self.isl),
            parse_lengths(self.osl),
            num_requests=self.num_requests,
            request_rate=self.request_rate,
            concurrency=self.concurrency,
            seed=self.seed,
        )


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found."""

    question: Question
    unit: str
    """`GPU` or `core`."""
    num_units: int
    verdict: Verdict
    rows: list[Row]
    """The best first."""
    profile: Profile


def advise(
    file: Path, overrides: Sequence[str], profile: Profile, question: Question, stage: Callable[[str], None]
) -> Advice:
    """
    :raises ConfigError: nothing fits.
    :raises MeasureError: requests do not fit.
    """
    measured = profile.servers
    unit = "GPU" if measured["generation"].num_gpus else "core"
    num_units = question.num_units or measured["context"].num_units + measured["generation"].num_units
    check_cluster(cluster := load(file, overrides).cluster)
    check_lengths(profile, asked := question.load())
    found = designs(profile, cluster, num_units)
    rows = search(found, asked, question.targets, stage)
    verdict = judge(rows, question.targets, unit)
    return Advice(question=question, unit=unit, num_units=num_units, verdict=verdict, rows=rows, profile=profile)
