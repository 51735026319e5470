"""What the control groups that we are in allow, by either version of their file system."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
_UNLIMITED_BYTES = 2**60
"""Version 1 says a number of about 2**63 where there is no limit."""


def memory_limit_bytes(root: Path = ROOT, membership: Path = MEMBERSHIP) -> int | None:
    """The lowest limit on the way up; None: there is none."""
    limits = [*_numbers("memory.max", "", root, membership)]
    limits += _numbers("memory.limit_in_bytes", "memory", root, membership)
    return min((limit[0] for limit in limits if limit[0] < _UNLIMITED_BYTES), default=None)


def cpu_quota(root: Path = ROOT, membership: Path = MEMBERSHIP) -> float | None:
    """How many cores' worth of time there is; None: no limit."""
    quotas = [quota[0] / quota[1] for quota in _numbers("cpu.max", "", root, membership)]
    for directory in _groups("cpu", root, membership):
        quota, period = _read(directory / "cpu.cfs_quota_us"), _read(directory / "cpu.cfs_period_us")
        if quota and period and quota[0] > 0:
            quotas.append(quota[0] / period[0])
    return min(quotas, default=None)


def _numbers(file: str, controller: str, root: Path, membership: Path) -> Iterator[list[int]]:
    for directory in _groups(controller, root, membership):
        if numbers := _read(directory / file):
            yield numbers


def _groups(controller: str, root: Path, membership: Path) -> Iterator[Path]:
    """Our group and those above it.

    :param controller: of version 1; empty: version 2.
    """
    with contextlib.suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                base = root / controllers if controllers else root
                group = base / path.lstrip("/")
                yield from (d for d in (group, *group.parents) if d.is_relative_to(base))


def _read(file: Path) -> list[int] | None:
    """The numbers in a file; of one that says `max`, is not there or is not ours to read, None."""
    try:
        return [int(word) for word in file.read_text().split()] or None
    except (OSError, ValueError):
        return None
