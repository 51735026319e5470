"""The cluster file that does what was found best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtdisagg.bench.advise.advice import Advice
from trtdisagg.bench.advise.search import Row
from trtdisagg.config.load import load
from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.written import written


def cluster_text(file: Path, overrides: Sequence[str], advice: Advice) -> str:
    """
    :param file: that was asked about; all that is not about numbers of servers stays as it is.
    """
    row = advice.verdict.best
    numbered = [*overrides, *numbers(load(file, overrides).cluster, row)]
    return written(load(file, numbered), _comment(row, advice))


def numbers(cluster: ClusterFile, row: Row) -> list[str]:
    """What to set for so many servers of each role. Pins and addresses were for as many as there were."""
    words = []
    for role, num in (("context", row.num_context), ("generation", row.num_generation)):
        section = getattr(cluster, f"{role}_servers")
        if num or section:
            words.append(f"{role}_servers.num_instances={num}")
        if section and section.num_instances != num:
            words += [f"{role}_servers.{key}" for key in ("urls=[]", "cores=null", "gpus=null")]
        if num > 1:
            words.append(f"{role}_servers.router.type=load_balancing")
    return words


def _comment(row: Row, advice: Advice) -> str:
    outcome, profile, targets = row.outcome, advice.profile, advice.question.targets
    asked_at = row.request_rate or outcome.request_throughput  # 0: no rate keeps the targets
    rate = "" if row.request_rate is None else f" at {asked_at:.3g} requests/s"
    kept = f"Targets: {targets.words}." if targets.words else "No targets."
    return "\n".join(
        [
            f"By `trtdisagg advise` for {advice.question.words}. {kept}",
            advice.verdict.sentence,
            f"Simulated{rate}: TTFT p50 {outcome.ttft_ms.p50:.0f} ms, p99 {outcome.ttft_ms.p99:.0f} ms; TPOT p50 "
            f"{outcome.tpot_ms.p50:.1f} ms, p99 {outcome.tpot_ms.p99:.1f} ms; {outcome.output_throughput:.0f} tok/s.",
            f"From a profile of {profile.date}, {profile.model} on {profile.machine}.",
        ]
    )
