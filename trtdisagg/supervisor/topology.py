"""Which CPU cores belong together: NUMA nodes, and threads of one physical core, as Linux shows them in /sys."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

_SYSTEM = Path("/sys/devices/system")


def numa_nodes(cores: Iterable[int], system: Path = _SYSTEM) -> list[list[int]]:
    """Cores by NUMA node, threads of one physical core side by side, so that neighbours may be given to one server.

    :param cores: those to look at.
    :returns: empty where Linux does not say.
    """
    wanted = set(cores)
    files = sorted((system / "node").glob("node[0-9]*/cpulist"), key=lambda file: int(file.parent.name[len("node") :]))
    nodes = [[core for core in _read(file) if core in wanted] for file in files]
    return [sorted(node, key=lambda core: (min(_siblings(core, system)), core)) for node in nodes if node]


def _siblings(core: int, system: Path) -> list[int]:
    return _read(system / "cpu" / f"cpu{core}" / "topology" / "thread_siblings_list") or [core]


def _read(file: Path) -> list[int]:
    """`0-2,8` -> [0, 1, 2, 8]; nothing of a file that is not there."""
    cores: list[int] = []
    with contextlib.suppress(OSError):
        for part in filter(None, file.read_text().strip().split(",")):
            first, _, last = part.partition("-")
            cores += range(int(first), int(last or first) + 1)
    return cores
