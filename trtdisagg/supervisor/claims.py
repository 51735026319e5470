"""What servers ask for, and what they get: GPUs and CPU cores. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

_T = TypeVar("_T", int, str)


class Claim(msgspec.Struct, kw_only=True, frozen=True):
    """What one server asks for; servers of one section have equal claims and divide what is in them."""

    server: str
    section: str
    """Path of the section in the cluster file, for messages."""
    num_ranks: int = 1
    cores: list[int] | None = None
    """None: an equal share of what no other section names."""
    gpus: list[str | int] | None = None
    """None: one of its own for each rank, where there are any; an empty list: the server runs on the CPU."""


Memory = tuple[str, str | None]
"""What ranks share: a node's name (empty: this host), and there a GPU, or with None the host's own memory."""


class Spot(msgspec.Struct, kw_only=True, frozen=True):
    """Where one server runs."""

    gpus: list[str]
    """Entries for CUDA_VISIBLE_DEVICES, one for each rank in order; empty: it runs on the CPU."""
    rank_cores: list[list[int]]
    """CPU cores that each rank stays on."""
    num_threads: int = 1
    """Of each rank: they work in step, so the one with the fewest cores counts."""
    nodes: list[str] = []
    """The node of each rank; empty: this host."""

    @property
    def cores(self) -> list[int]:
        return all_cores(self.rank_cores)

    @property
    def memories(self) -> list[Memory]:
        """That of each rank."""
        return memories(len(self.rank_cores), self.nodes, self.gpus)


def memories(num_ranks: int, nodes: Sequence[str], gpus: Sequence[str]) -> list[Memory]:
    """
    :param nodes, gpus: of each rank, or none.
    """
    on_gpus: Sequence[str | None] = gpus or [None] * num_ranks
    return list(zip(nodes or [""] * num_ranks, on_gpus, strict=True))


def all_cores(rank_cores: Sequence[Sequence[int]]) -> list[int]:
    """Those of any rank."""
    return sorted({core for mine in rank_cores for core in mine})


def choices(claims: Sequence[Claim], named: Mapping[str, list[_T]], everything: list[_T]) -> dict[str, list[_T]]:
    """What each server's section may divide: what it names itself, or what no section names."""
    taken = {item for items in named.values() for item in items}
    rest = [item for item in everything if item not in taken]
    return {claim.server: named.get(claim.section, rest) for claim in claims}
