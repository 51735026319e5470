"""Divides the GPUs and CPU cores of a machine among the servers. Pure.

    a server that has a spot    keeps it, if its section still allows it
    any other                   gets a GPU that nobody has, and a share of the cores that nobody has

Cores may be shared, with a notice; a GPU only among servers whose section names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.supervisor.cores import divide_cores
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nvml import Gpu

_T = TypeVar("_T", int, str)


class Claim(msgspec.Struct, kw_only=True, frozen=True):
    """What one server asks for; servers of one section have equal claims and divide what is in them."""

    server: str
    section: str
    """Path of the section in the cluster file, for messages."""
    cores: list[int] | None = None
    """None: an equal share of what no other section names."""
    gpus: list[str | int] | None = None
    """None: one of its own, where there are any; an empty list: the server runs on the CPU."""


class Spot(msgspec.Struct, kw_only=True, frozen=True):
    """Where one server runs."""

    gpus: list[str]
    """Entries for CUDA_VISIBLE_DEVICES; empty: it runs on the CPU."""
    cores: list[int]
    """CPU cores to stay on."""
    num_threads: int = 1


def place(
    claims: Sequence[Claim], host: Host, held: Mapping[str, Spot] | None = None
) -> tuple[dict[str, Spot], list[str]]:
    """Find a spot for each server.

    :param held: the spots of servers that run; they stay there where their claim allows it.
    :returns: spots by server, and notices for people.
    :raises ConfigError: when a section names a GPU or core that is not there.
    :raises StartupError: when there are too few GPUs.
    """
    held = held or {}
    gpus = _divide_gpus(claims, host, held)
    stay = {name: spot.cores for name, spot in held.items() if gpus.get(name) == spot.gpus}
    cores = _divide_cores(claims, gpus, host, stay)
    users = Counter(core for mine in cores.values() for core in mine)
    spots = {
        server: Spot(gpus=gpus[server], cores=mine, num_threads=max(1, int(sum(1 / users[core] for core in mine))))
        for server, mine in cores.items()
    }
    return spots, _shared(cores, "CPU core") + _shared(gpus, "GPU")


# --- GPUs -----------------------------------------------------------------------------------------------------------


def _divide_gpus(claims: Sequence[Claim], host: Host, held: Mapping[str, Spot]) -> dict[str, list[str]]:
    named = {claim.section: _named_gpus(claim, host.gpus) for claim in claims if claim.gpus is not None}
    pools = _pools(claims, named, [gpu.id for gpu in host.gpus])
    users: Counter[str] = Counter()
    gpus: dict[str, list[str]] = {}
    for claim in claims:
        mine = held[claim.server].gpus if claim.server in held else []
        alone = claim.gpus is None and any(users[gpu] for gpu in mine)
        if mine and set(mine) <= set(pools[claim.server]) and not alone:
            gpus[claim.server] = mine
            users.update(mine)
    without = []
    for claim in claims:
        if claim.server in gpus:
            continue
        free = [gpu for gpu in pools[claim.server] if not users[gpu] or claim.gpus is not None]
        gpus[claim.server] = sorted(free, key=users.__getitem__)[:1]
        users.update(gpus[claim.server])
        if not free and claim.gpus is None and host.gpus:
            without.append(claim)
    if without:
        raise StartupError(_too_few(without, gpus, host.gpus))
    return {claim.server: gpus[claim.server] for claim in claims}


def _named_gpus(claim: Claim, there: Sequence[Gpu]) -> list[str]:
    """
    :raises ConfigError: when one is not there, or a word means several.
    """
    ids: list[str] = []
    for word in map(str, claim.gpus or []):
        found = [gpu.id for gpu in there if gpu.is_called(word)]
        if not found:
            raise ConfigError(f"{claim.section}.gpus: there is no GPU {word} here; there are: {_list(there)}")
        if len(found) > 1 and not word.isdigit():
            raise ConfigError(f"{claim.section}.gpus: {word} may be each of {', '.join(found)}; write more of the UUID")
        ids += found
    return list(dict.fromkeys(ids))


def _too_few(without: Sequence[Claim], gpus: Mapping[str, list[str]], there: Sequence[Gpu]) -> str:
    servers = ", ".join(claim.server for claim in without)
    wants = "wants a GPU of its own" if len(without) == 1 else "want a GPU each"
    taken = ", ".join(f"{server} has {', '.join(mine)}" for server, mine in gpus.items() if mine)
    return (
        f"{servers} {wants}, and none is left: there are {_list(there)}{f'; {taken}' if taken else ''}. "
        f"Start fewer servers, name in {without[0].section}.gpus the GPUs they may share, or with `gpus: []` run them "
        "on the CPU"
    )


def _list(gpus: Sequence[Gpu]) -> str:
    return ", ".join(f"{gpu.id} ({gpu.name})" for gpu in gpus) or "none"


# --- CPU cores ------------------------------------------------------------------------------------------------------


def _divide_cores(
    claims: Sequence[Claim], gpus: Mapping[str, list[str]], host: Host, stay: Mapping[str, list[int]]
) -> dict[str, list[int]]:
    """
    :param stay: the cores of servers that run, and whose GPUs have not changed.
    """
    named = {claim.section: _named_cores(claim, host) for claim in claims if claim.cores is not None}
    pools = {server: pool or host.cores for server, pool in _pools(claims, named, host.cores).items()}
    cores = {
        claim.server: stay[claim.server]
        for claim in claims
        if stay.get(claim.server) and set(stay[claim.server]) <= set(pools[claim.server])
    }
    users = Counter(core for mine in cores.values() for core in mine)
    near = {gpu.id: gpu.cores for gpu in host.gpus}
    groups: dict[tuple[int, ...], list[str]] = {}
    for server, pool in pools.items():
        groups.setdefault(tuple(pool), []).append(server)
    # The smallest first: who may choose less freely chooses first.
    for group, servers in sorted(groups.items(), key=lambda group: len(group[0])):
        new = {name: [core for gpu in gpus[name] for core in near[gpu]] for name in servers if name not in cores}
        cores |= divide_cores(new, group, host.nodes, users, num_others=len(servers) - len(new))
    return {claim.server: cores[claim.server] for claim in claims}


def _named_cores(claim: Claim, host: Host) -> list[int]:
    have = ", ".join(map(str, host.cores))
    if not claim.cores:
        raise ConfigError(f"{claim.section}.cores: names none; there are: {have}")
    if missing := [str(core) for core in claim.cores if core not in host.cores]:
        raise ConfigError(f"{claim.section}.cores: there is no CPU core {', '.join(missing)} here; there are: {have}")
    return claim.cores


# --- both -----------------------------------------------------------------------------------------------------------


def _pools(claims: Sequence[Claim], named: Mapping[str, list[_T]], everything: list[_T]) -> dict[str, list[_T]]:
    """What each server's section may divide: what it names itself, or what no section names."""
    taken = {item for items in named.values() for item in items}
    rest = [item for item in everything if item not in taken]
    return {claim.server: named.get(claim.section, rest) for claim in claims}


def _shared(spots: Mapping[str, Sequence[_T]], what: str) -> list[str]:
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
