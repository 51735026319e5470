"""Divides CPU cores among servers, with regard to those that others have already and to NUMA nodes. Pure.

A server stays within one node where its share fits; one on a GPU stays near that GPU. Free cores are given out first;
with none left, servers share the cores that have the fewest users.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

_Cores = tuple[int, ...]


def divide_cores(
    servers: Mapping[str, Sequence[int]],
    pool: Sequence[int],
    nodes: Sequence[Sequence[int]],
    users: Counter[int],
    *,
    num_others: int = 0,
) -> dict[str, list[int]]:
    """Give each server its cores.

    :param servers: each with the cores near its GPU; empty: it has no GPU, or near is unknown.
    :param pool: the cores to divide.
    :param nodes: the cores of each NUMA node, in the order in which they are given out.
    :param users: how many servers have a core; those of the answer are counted in.
    :param num_others: servers that have their cores of this pool already; no new one gets more than its part then, so
        that something is left for the next.
    """
    num_servers = len(servers) + num_others
    most = -(-len(pool) // num_servers) if num_others else len(pool)
    shares: dict[str, list[int]] = {}
    # The smallest first: who may choose less freely chooses first.
    for domain, names in sorted(_domains(servers, pool, nodes, users, num_servers).items(), key=lambda d: len(d[0])):
        for i, name in enumerate(names):
            free = [core for core in domain if not users[core]]
            if free:
                mine = free[: min(most, max(1, len(free) // (len(names) - i)))]
            else:
                mine = sorted(domain, key=users.__getitem__)[: max(1, len(pool) // num_servers)]
            users.update(mine)
            shares[name] = sorted(mine)
    return shares


def _domains(
    servers: Mapping[str, Sequence[int]],
    pool: Sequence[int],
    nodes: Sequence[Sequence[int]],
    users: Counter[int],
    num_servers: int,
) -> dict[_Cores, list[str]]:
    """The cores that servers may choose from, and the servers that do."""
    parts = [part for node in nodes if (part := tuple(core for core in node if core in pool))]
    ordered = tuple(dict.fromkeys([*(core for part in parts for core in part), *pool]))
    roomy = [part for part in parts if len(part) >= len(pool) // num_servers]
    domains: dict[_Cores, list[str]] = {}
    for name, near in servers.items():
        if mine := tuple(core for core in ordered if core in near):
            domains.setdefault(mine, []).append(name)
    for name, near in servers.items():
        if not set(near) & set(pool):
            shares = {part: _share(part, domains, users) for part in roomy}
            best = max(shares, key=shares.__getitem__, default=ordered)
            domain = best if shares.get(best, 0) >= 1 else ordered
            domains.setdefault(domain, []).append(name)
    return domains


def _share(part: _Cores, domains: Mapping[_Cores, list[str]], users: Counter[int]) -> float:
    """The free cores that one more server would find on a node."""
    return sum(not users[core] for core in part) / (len(domains.get(part, ())) + 1)
