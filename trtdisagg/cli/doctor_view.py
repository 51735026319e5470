"""Findings as lines: a pure function."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trtdisagg.supervisor.doctor import Finding
from trtdisagg.supervisor.doctor.finding import Severity

_STYLES = {"ok": "green", "warning": "yellow", "error": "bold red"}


def doctor_view(findings: Sequence[Finding]) -> RenderableType:
    """A row for each finding, with the way to mend what is not well below it; at last how many there are."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for finding in findings:
        table.add_row(Text(finding.severity, _STYLES[finding.severity]), finding.topic, _words(finding))
    return Group(table, _sum(findings))


def _words(finding: Finding) -> Text:
    text = Text(finding.found)
    if finding.needs:
        text.append(f"; {finding.needs}", "dim" if finding.severity == "ok" else "")
    if finding.remedy:
        text.append(f"\n{finding.remedy}", _STYLES[finding.severity])
    return text


def _sum(findings: Sequence[Finding]) -> Text:
    counts = Counter(finding.severity for finding in findings)
    if counts["ok"] == len(findings):
        return Text("All is well", _STYLES["ok"])
    words = list(_counted(counts))
    return Text(", ".join(words), _STYLES["error" if counts["error"] else "warning"])


def _counted(counts: Mapping[Severity, int]) -> Iterator[str]:
    kinds: tuple[Severity, ...] = ("error", "warning")
    for severity in kinds:
        if number := counts[severity]:
            yield f"{number} {severity}{'s' * (number > 1)}"
