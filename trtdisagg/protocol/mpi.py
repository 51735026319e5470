"""What a process of an MPI world is started with: `python -m trtdisagg.engine.mpi --spec-fd N` reads a `WorldSpec`.

The ranks of all servers are numbered through, in the order of `servers`: the first server's, then the next one's.
"""

from __future__ import annotations

import itertools

import msgspec

from trtdisagg.protocol.spec import EngineSpec


class WorldServer(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    name: str
    num_ranks: int


class WorldSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The same for all processes, but for `engine`."""

    servers: list[WorldServer]
    engine: EngineSpec
    """Of this process. Where its server's ranks meet is still open, and its sizes and cores are as this process alone
    sees them."""
    gpu: str | None = None
    """UUID of the GPU that it computes on; None: it has none."""


def first_ranks(servers: list[WorldServer]) -> dict[str, int]:
    """The number in the world of each server's rank 0.

    >>> first_ranks([WorldServer(name="context-0", num_ranks=2), WorldServer(name="generation-0", num_ranks=1)])
    {'context-0': 0, 'generation-0': 2}
    """
    starts = itertools.accumulate((server.num_ranks for server in servers), initial=0)
    return {server.name: start for server, start in zip(servers, starts, strict=False)}
