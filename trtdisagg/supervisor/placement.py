"""Divides the GPUs and CPU cores of a machine among the servers. Pure.

    a server that has a spot    keeps it, if its section still allows it
    any other                   gets a GPU that nobody has, and a share of the cores that nobody has

Cores may be shared, with a notice; a GPU only among servers whose section names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

from trtdisagg.errors import ConfigError
from trtdisagg.supervisor.claims import Claim, Spot, choices
from trtdisagg.supervisor.cores import divide_cores
from trtdisagg.supervisor.gpu_places import divide_gpus
from trtdisagg.supervisor.host import Host

_T = TypeVar("_T", int, str)


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
    gpus = divide_gpus(claims, host, held)
    stay = {name: spot.cores for name, spot in held.items() if gpus.get(name) == spot.gpus}
    cores = _divide_cores(claims, gpus, host, stay)
    users = Counter(core for mine in cores.values() for core in mine)
    spots = {
        server: Spot(gpus=gpus[server], cores=mine, num_threads=max(1, int(sum(1 / users[core] for core in mine))))
        for server, mine in cores.items()
    }
    return spots, _shared(cores, "CPU core") + _shared(gpus, "GPU")


# --- CPU cores ------------------------------------------------------------------------------------------------------


def _divide_cores(
    claims: Sequence[Claim], gpus: Mapping[str, list[str]], host: Host, stay: Mapping[str, list[int]]
) -> dict[str, list[int]]:
    """
    :param stay: the cores of servers that run, and whose GPUs have not changed.
    """
    named = {claim.section: _named_cores(claim, host) for claim in claims if claim.cores is not None}
    pools = {server: pool or host.cores for server, pool in choices(claims, named, host.cores).items()}
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
        new = {
            name: [core for gpu in gpus[name] for core in near.get(gpu, [])] for name in servers if name not in cores
        }
        cores |= divide_cores(new, group, host.nodes, users, num_others=len(servers) - len(new))
    return {claim.server: cores[claim.server] for claim in claims}


def _named_cores(claim: Claim, host: Host) -> list[int]:
    have = ", ".join(map(str, host.cores))
    if not claim.cores:
        raise ConfigError(f"{claim.section}.cores: names none; there are: {have}")
    if missing := [str(core) for core in claim.cores if core not in host.cores]:
        raise ConfigError(f"{claim.section}.cores: there is no CPU core {', '.join(missing)} here; there are: {have}")
    return claim.cores


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
