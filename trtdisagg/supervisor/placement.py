"""Divides the GPUs and CPU cores of a machine among the ranks of the servers. Pure.

    a server that has a spot    keeps it, if its section still allows it
    each rank of any other      gets a GPU that nobody has, and a share of the cores that nobody has

Cores may be shared, with a notice; a GPU only among servers whose section names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

from trtdisagg.errors import ConfigError
from trtdisagg.supervisor.claims import Claim, Spot, all_cores, choices
from trtdisagg.supervisor.cores import Seat, divide_cores
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
    stay = {name: spot.rank_cores for name, spot in held.items() if gpus.get(name) == spot.gpus}
    cores = _divide_cores(claims, gpus, host, stay)
    users = Counter(core for mine in cores.values() for core in mine)
    spots = {claim.server: _spot(claim, gpus[claim.server], cores, users) for claim in claims}
    named = {_seat_words(seat, spots[seat[0]]): mine for seat, mine in cores.items()}
    return spots, _shared(named, "CPU core") + _shared(gpus, "GPU")


def _spot(claim: Claim, gpus: list[str], cores: Mapping[Seat, list[int]], users: Counter[int]) -> Spot:
    rank_cores = [cores[seat] for seat in _seats(claim)]
    fewest = min(sum(1 / users[core] for core in mine) for mine in rank_cores)
    return Spot(gpus=gpus, rank_cores=rank_cores, num_threads=max(1, int(fewest)))


def _seats(claim: Claim) -> list[Seat]:
    return [(claim.server, rank) for rank in range(claim.num_ranks)]


def _seat_words(seat: Seat, spot: Spot) -> str:
    server, rank = seat
    return server if len(spot.rank_cores) == 1 else f"{server} rank {rank}"


# --- CPU cores ------------------------------------------------------------------------------------------------------


def _divide_cores(
    claims: Sequence[Claim], gpus: Mapping[str, list[str]], host: Host, stay: Mapping[str, list[list[int]]]
) -> dict[Seat, list[int]]:
    """
    :param stay: the cores of servers that run, and whose GPUs have not changed, by rank.
    """
    named = {claim.section: _named_cores(claim, host) for claim in claims if claim.cores is not None}
    pools = {server: pool or host.cores for server, pool in choices(claims, named, host.cores).items()}
    cores: dict[Seat, list[int]] = {}
    for claim in claims:
        mine = stay.get(claim.server, [])
        if len(mine) == claim.num_ranks and all(mine) and set(all_cores(mine)) <= set(pools[claim.server]):
            cores |= zip(_seats(claim), mine, strict=True)
    users = Counter(core for mine in cores.values() for core in mine)
    groups: dict[tuple[int, ...], list[Seat]] = {}
    for claim in claims:
        groups.setdefault(tuple(pools[claim.server]), []).extend(_seats(claim))
    # The smallest first: who may choose less freely chooses first.
    for pool, seats in sorted(groups.items(), key=lambda group: len(group[0])):
        new = {seat: _near(seat, gpus, host) for seat in seats if seat not in cores}
        cores |= divide_cores(new, pool, host.nodes, users, num_others=len(seats) - len(new))
    return {seat: cores[seat] for claim in claims for seat in _seats(claim)}


def _near(seat: Seat, gpus: Mapping[str, list[str]], host: Host) -> list[int]:
    """The cores near the GPU of a rank; empty: it has none, or near is unknown."""
    server, rank = seat
    mine = gpus[server][rank : rank + 1]
    return next((gpu.cores for gpu in host.gpus if gpu.id in mine), [])


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
