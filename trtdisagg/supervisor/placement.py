"""Divides the GPUs and CPU cores of a machine among the servers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from trtdisagg.errors import ConfigError
from trtdisagg.supervisor.host import Host

_T = TypeVar("_T")


class Claim(msgspec.Struct, kw_only=True, frozen=True):
    """What one server asks for; servers of one section have equal claims and divide what is in them."""

    server: str
    section: str
    """Path of the section in the cluster file, for messages."""
    cores: list[int] | None = None
    """None: an equal share of what no other section names."""
    gpus: list[str | int] | None = None
    """None: the same; an empty list: the server runs on the CPU."""


class Spot(msgspec.Struct, kw_only=True, frozen=True):
    """Where one server runs."""

    gpus: list[str]
    """Entries for CUDA_VISIBLE_DEVICES; empty: it runs on the CPU."""
    cores: list[int]
    """CPU cores to stay on; empty: wherever it likes."""
    num_threads: int


def place(claims: Sequence[Claim], host: Host) -> tuple[dict[str, Spot], list[str]]:
    """Find a spot for each server.

    :returns: spots by server, and notices for people.
    :raises ConfigError: when a section names a GPU or core that is not there.
    """
    gpus = _divide_gpus(claims, host)
    pinned = [claim for claim in claims if claim.cores is not None or not gpus[claim.server]]
    cores = _divide_cores(claims, pinned, host)
    pins = {claim.server: cores[claim.server] for claim in pinned}
    users = Counter(core for pin in pins.values() for core in pin)
    spots = {
        server: Spot(
            gpus=gpus[server],
            cores=pins.get(server, []),
            num_threads=max(1, int(sum(1 / users.get(core, 1) for core in mine))),
        )
        for server, mine in cores.items()
    }
    return spots, _shared(pins, "CPU core") + _shared(gpus, "GPU")


def _divide_gpus(claims: Sequence[Claim], host: Host) -> dict[str, list[str]]:
    ids = [gpu.id for gpu in host.gpus]
    by_uuid = {gpu.uuid: gpu.id for gpu in host.gpus}
    named: dict[str, list[str]] = {}
    for claim in claims:
        if claim.gpus is not None:
            wanted = [by_uuid.get(str(gpu), str(gpu)) for gpu in claim.gpus]
            _check_there(f"{claim.section}.gpus", wanted, ids, "GPU")
            named[claim.section] = wanted
    pools = _pools(claims, named, ids)
    return {server: pool[i % len(pool) :][:1] if pool else [] for server, (pool, i, _) in pools.items()}


def _divide_cores(claims: Sequence[Claim], pinned: Sequence[Claim], host: Host) -> dict[str, list[int]]:
    """Those that are pinned divide the cores; a server on a GPU may use as many, and stays on none."""
    named: dict[str, list[int]] = {}
    for claim in claims:
        if claim.cores is not None:
            _check_there(f"{claim.section}.cores", claim.cores, host.cores, "CPU core")
            named[claim.section] = claim.cores
    pools = _pools(pinned, named, host.cores)
    pools |= _pools([claim for claim in claims if claim not in pinned], named, host.cores)
    return {server: _share(pool, i, n) for server, (pool, i, n) in pools.items()}


def _pools(
    claims: Sequence[Claim], named: dict[str, list[_T]], everything: list[_T]
) -> dict[str, tuple[list[_T], int, int]]:
    """For each server: what its group divides, its place in the group, the size of the group."""
    taken = {item for items in named.values() for item in items}
    rest = [item for item in everything if item not in taken] or everything
    groups: dict[str, list[str]] = {}
    for claim in claims:
        groups.setdefault(claim.section if claim.section in named else "", []).append(claim.server)
    return {
        server: (named.get(section, rest), i, len(servers))
        for section, servers in groups.items()
        for i, server in enumerate(servers)
    }


def _share(pool: list[_T], i: int, n: int) -> list[_T]:
    """The i-th of n shares: neighbours, sizes that differ by one at most; with too few, one each in turn."""
    if n > len(pool):
        return [pool[i % len(pool)]]
    return pool[len(pool) * i // n : len(pool) * (i + 1) // n]


def _check_there(path: str, wanted: Sequence[str | int], there: Sequence[str | int], what: str) -> None:
    missing = [str(item) for item in wanted if item not in there]
    have = ", ".join(map(str, there)) or "none"
    if missing:
        raise ConfigError(f"{path}: there is no {what} {', '.join(missing)} here; there are: {have}")
    if not wanted and what != "GPU":
        raise ConfigError(f"{path}: names none; there are: {have}")


def _shared(spots: dict[str, list[_T]], what: str) -> list[str]:
    """One warning for each group of servers that have something in common."""
    users: dict[_T, list[str]] = {}
    for server, items in spots.items():
        for item in items:
            users.setdefault(item, []).append(server)
    shared: dict[tuple[str, ...], list[str]] = {}
    for item, servers in users.items():
        if len(servers) > 1:
            shared.setdefault(tuple(servers), []).append(str(item))
    return [
        f"{', '.join(servers)} share {what}{'s' * (len(items) > 1)} {', '.join(items)}: they slow each other down"
        for servers, items in shared.items()
    ]
