"""One thing that was looked at: what there is, what is needed, and the way to mend it."""

from __future__ import annotations

from typing import Literal

import msgspec

Severity = Literal["ok", "warning", "error"]


class Finding(msgspec.Struct, kw_only=True, frozen=True):
    topic: str
    """`memory`, `open files`, ..."""
    severity: Severity = "ok"
    found: str
    """What there is."""
    needs: str = ""
    """What the plan, or a transport that it chose, wants of it."""
    remedy: str = ""
    """How to mend it; of what is ok, empty."""

    def __str__(self) -> str:
        words = f"{self.topic}: {self.found}"
        words += f"; {self.needs}" if self.needs else ""
        return f"{words}. {self.remedy}" if self.remedy else words


def size_words(num_bytes: int) -> str:
    """`720 MiB`, `2.0 GiB`."""
    mib = num_bytes / 2**20
    if mib < 1024:
        return f"{mib:.0f} MiB" if mib >= 10 else f"{mib:.1f} MiB"
    gib = mib / 1024
    return f"{gib:.0f} GiB" if gib >= 100 else f"{gib:.1f} GiB"
