"""Whether disaggregation pays, in a sentence, and why. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trtdisagg.bench.advise.load import Targets
from trtdisagg.bench.advise.search import WORTH_IT, Row

MANY = 1e6
"""Context servers for one of generation: it has nothing to do."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What to do."""

    pays: bool | None
    """None: nothing that fits keeps the targets, or there is nothing to compare."""
    ratio: float | None
    """Goodput of a GPU: the best disaggregated cluster to the best aggregated one."""
    sentence: str
    reasons: list[str]
    best: Row


def judge(rows: Sequence[Row], targets: Targets, unit: str) -> Verdict:
    """
    :param rows: the best first.
    :param unit: `GPU` or `core`.
    """
    apart = next((row for row in rows if row.is_disaggregated), None)
    together = next((row for row in rows if not row.is_disaggregated), None)
    best = rows[0]
    if not best.is_kept:
        return _nothing(best, targets)
    if apart is None or together is None:
        other = "disaggregated" if apart is None else "aggregated"
        sentence = f"No {other} cluster fits; the best is {_goodput(best, unit)}."
        return Verdict(pays=None, ratio=None, sentence=sentence, reasons=[_limit(best, targets)], best=best)
    ratio = _ratio(apart, together)
    if apart.is_kept and (not together.is_kept or (ratio is not None and ratio >= WORTH_IT)):
        return _pays(apart, together, ratio, targets, unit)
    return _does_not(apart, together, ratio, targets, unit)


def _pays(apart: Row, together: Row, ratio: float | None, targets: Targets, unit: str) -> Verdict:
    if not together.is_kept:
        sentence = f"Disaggregation pays: {_goodput(apart, unit)}; no aggregated cluster keeps {targets.words}."
    else:
        sentence = (
            f"Disaggregation pays: {ratio:.2f} x goodput per {unit} with {apart.words} "
            f"({_each(apart, unit)}; {together.words}: {_each(together, unit)})."
        )
    reasons = [_limit(together, targets), _beside(apart, together), _busy(apart)]
    return Verdict(pays=True, ratio=ratio, sentence=sentence, reasons=reasons, best=apart)


def _does_not(apart: Row, together: Row, ratio: float | None, targets: Targets, unit: str) -> Verdict:
    if apart.is_kept:
        why = f"{apart.words} have {ratio:.2f} x the goodput per {unit} of {together.words}"
    else:
        why = f"{apart.words} keep the targets for {apart.outcome.good_share:.0%} of requests, {together.words} do"
    sentence = (
        f"Disaggregation does not pay here: {why} ({_each(apart, unit)}; {together.words}: {_each(together, unit)})."
    )
    reasons = [_limit(apart, targets), _busy(apart), _beside(apart, together)]
    return Verdict(pays=False, ratio=ratio, sentence=sentence, reasons=reasons, best=together)


def _nothing(best: Row, targets: Targets) -> Verdict:
    sentence = (
        f"Nothing that fits keeps {targets.words}: the best, {best.words}, keeps them for "
        f"{best.outcome.good_share:.0%} of requests."
    )
    return Verdict(pays=None, ratio=None, sentence=sentence, reasons=[_limit(best, targets), _busy(best)], best=best)


def _ratio(apart: Row, together: Row) -> float | None:
    if not together.goodput_per_unit:
        return None
    return apart.goodput_per_unit / together.goodput_per_unit


def _goodput(row: Row, unit: str) -> str:
    return f"{row.words}, {_each(row, unit)}"


def _each(row: Row, unit: str) -> str:
    return f"{row.goodput_per_unit:.3g} good requests/s per {unit}"


def _limit(row: Row, targets: Targets) -> str:
    """Which target a cluster comes to first."""
    outcome = row.outcome
    if outcome.good_share == 1:
        return f"{row.words}: every request keeps the targets."
    ttft = f"TTFT ({outcome.ttft_share:.1%} within {targets.ttft_ms:g} ms)" if targets.ttft_ms else ""
    tpot = f"TPOT ({outcome.tpot_share:.1%} within {targets.tpot_ms:g} ms)" if targets.tpot_ms else ""
    if outcome.ttft_share == outcome.tpot_share or not (ttft and tpot):
        what = " and ".join(filter(None, (ttft, tpot))) or "what it can compute"
    else:
        what = ttft if outcome.ttft_share < outcome.tpot_share else tpot
    return f"{row.words}: limited by {what}."


def _beside(apart: Row, together: Row) -> str:
    """What the two do to a stream and to the first token."""
    one, other = apart.outcome, together.outcome
    return (
        f"Between two tokens of a stream p99 {one.itl_ms.p99:.0f} ms apart, {other.itl_ms.p99:.0f} ms where prompts "
        f"are computed beside it; to the first token p50 {one.ttft_ms.p50:.0f} ms and {other.ttft_ms.p50:.0f} ms."
    )


def _busy(row: Row) -> str:
    outcome = row.outcome
    if not row.is_disaggregated:
        return f"{row.words}: busy {outcome.generation_utilization:.0%} of the time."
    return (
        f"{row.words}: context servers are busy {outcome.context_utilization:.0%} of the time, generation servers "
        f"{outcome.generation_utilization:.0%}; rate matching wants {_wanted(row.matching.context_per_generation)}."
    )


def _wanted(context_per_generation: float) -> str:
    if context_per_generation > MANY:
        return "no generation servers: answers have no second token"
    return f"{context_per_generation:.2g} context servers for each generation server"
