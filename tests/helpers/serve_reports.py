"""Reports of `bench serve`, made up of a few figures."""

from __future__ import annotations

from typing import Any

import msgspec

from trtdisagg.bench.serve.report import ServeReport

_WORDS = {"date": "20261122-141500", "model_id": "m", "url": "http://localhost:8000", "request_rate": "inf"}


def serve_report(**figures: Any) -> ServeReport:
    """One with these figures; of a time, `ttft=5` is its median (None: there is none); p99 is twice that."""
    for time in ("ttft", "tpot", "itl", "e2el"):
        median = figures.pop(time, 1.0)
        figures.setdefault(f"p50_{time}_ms", median)
        figures.setdefault(f"p99_{time}_ms", median and 2 * median)
    needed = [f for f in msgspec.structs.fields(ServeReport) if f.required]
    return ServeReport(**{**{f.name: 0 for f in needed}, **_WORDS, "completed": 100, **figures})
