"""Divides CPU cores among the ranks of servers, with regard to those that others have already and to NUMA nodes. Pure.

A rank stays within one node where its share fits; one on a GPU stays near that GPU. Free cores are given out first;
with none left, ranks share the cores that have the fewest users.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

_Cores = tuple[int, ...]
Seat = tuple[str, int]
"""A server's name and the number of one of its ranks."""


def divide_cores(
    seats: Mapping[Seat, Sequence[int]],
    pool: Sequence[int],
    nodes: Sequence[Sequence[int]],
    users: Counter[int],
    *,
    num_others: int = 0,
) -> dict[Seat, list[int]]:
    """Give each rank its cores.

    :param seats: each with the cores near its GPU; empty: it has no GPU, or near is unknown.
    :param pool: the cores to divide.
    :param nodes: the cores of each NUMA node, in the order in which they are given out.
    :param users: how many ranks have a core; those of the answer are counted in.
    :param num_others: ranks that have their cores of this pool already; no new one gets more than its part then, so
        that something is left for the next.
    """
    num_seats = len(seats) + num_others
    most = -(-len(pool) // num_seats) if num_others else len(pool)
    shares: dict[Seat, list[int]] = {}
    # The smallest first: who may choose less freely chooses first.
    for domain, mates in sorted(_domains(seats, pool, nodes, users, num_seats).items(), key=lambda d: len(d[0])):
        for i, seat in enumerate(mates):
            free = [core for core in domain if not users[core]]
            if free:
                mine = free[: min(most, max(1, len(free) // (len(mates) - i)))]
            else:
                mine = sorted(domain, key=users.__getitem__)[: max(1, len(pool) // num_seats)]
            users.update(mine)
            shares[seat] = sorted(mine)
    return shares


def _domains(
    seats: Mapping[Seat, Sequence[int]],
    pool: Sequence[int],
    nodes: Sequence[Sequence[int]],
    users: Counter[int],
    num_seats: int,
) -> dict[_Cores, list[Seat]]:
    """The cores that ranks may choose from, and the ranks that do."""
    parts = [part for node in nodes if (part := tuple(core for core in node if core in pool))]
    ordered = tuple(dict.fromkeys([*(core for part in parts for core in part), *pool]))
    roomy = [part for part in parts if len(part) >= len(pool) // num_seats]
    domains: dict[_Cores, list[Seat]] = {}
    for seat, near in seats.items():
        if mine := tuple(core for core in ordered if core in near):
            domains.setdefault(mine, []).append(seat)
    for seat, near in seats.items():
        if not set(near) & set(pool):
            shares = {part: _share(part, domains, users) for part in roomy}
            best = max(shares, key=shares.__getitem__, default=ordered)
            domain = best if shares.get(best, 0) >= 1 else ordered
            domains.setdefault(domain, []).append(seat)
    return domains


def _share(part: _Cores, domains: Mapping[_Cores, list[Seat]], users: Counter[int]) -> float:
    """The free cores that one more rank would find on a node."""
    return sum(not users[core] for core in part) / (len(domains.get(part, ())) + 1)
