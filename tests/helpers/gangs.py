"""Ranks of a server as threads of the test."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.spec import EngineSpec

T = TypeVar("T")
TIMEOUT_S = 60


def gang_spec(directory: Path, parallel: Parallel, rank: int = 0, **changes: Any) -> EngineSpec:
    fields: dict[str, Any] = {
        "cluster": "c",
        "name": "context-0",
        "role": "context",
        "incarnation": "context-0.1",
        "model": "tiny",
        "model_path": "/nowhere",
        "max_seq_len": 64,
        "num_blocks": 8,
        "gang_socket": str(directory / "gang"),
        "parallel": parallel,
        "rank": rank,
    }
    return EngineSpec(**{**fields, **changes})


def on_each_rank(num_ranks: int, act: Callable[[int], T]) -> list[T]:
    """What `act` gives on each rank, all at once."""
    with ThreadPoolExecutor(num_ranks) as threads:
        return [done.result(TIMEOUT_S) for done in [threads.submit(act, rank) for rank in range(num_ranks)]]
