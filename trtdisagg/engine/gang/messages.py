"""What the ranks of a server tell each other, tensors and KV apart. Rank 0 and a follower, over `sockets`.

follower                                          rank 0
   | <------------------------------ Challenge(nonce) |   on each of its two connections
   | Join(rank, channel, spec, nonce, proof) -------> |
   | <--------------------- Admitted(proof) | Refused |
   | <------------- SharedMemory(path) | Store(address) |   on `steps` from here, when all have joined
   | Loaded ----------------------------------------> |
   | Ticks ... Ticks ... Ticks ---------------------> |   while it computes
   | <-------------------------- Compute ... Compute |
   | <-------------------------------------- Goodbye |   or: | Ending(reason) -> |
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from trtdisagg.engine.step import Step
from trtdisagg.protocol import WIRE_VERSION

Channel = Literal["steps", "kv"]


class Challenge(msgspec.Struct, tag="challenge", frozen=True, kw_only=True):
    """First frame on a connection, from rank 0."""

    nonce: bytes
    wire_version: int = WIRE_VERSION


class Join(msgspec.Struct, tag="join", frozen=True, kw_only=True):
    rank: int
    channel: Channel
    spec: dict[str, Any]
    """What must be the same in the specs of all ranks, by field."""
    nonce: bytes
    """Rank 0's challenge."""
    proof: bytes
    """Keyed digest of the challenge: knows the cluster's secret."""
    wire_version: int = WIRE_VERSION


class Admitted(msgspec.Struct, tag="admitted", frozen=True, kw_only=True):
    proof: bytes
    """Of the follower's nonce: whoever listens on the socket is one of us, too."""


class Refused(msgspec.Struct, tag="refused", frozen=True, kw_only=True):
    reason: str


class Store(msgspec.Struct, tag="store", frozen=True, kw_only=True):
    """Where the ranks find each other for tensors, by torch.distributed."""

    host: str
    port: int


class SharedMemory(msgspec.Struct, tag="shared_memory", frozen=True):
    """Memory of rank 0 that carries tensors."""

    path: str
    """Of a descriptor that it keeps open until all have come."""


class Compute(msgspec.Struct, tag="compute", frozen=True):
    step: Step


class Goodbye(msgspec.Struct, tag="goodbye", frozen=True):
    """All is done: end. A stream that ends without it means that rank 0 has died."""


class Loaded(msgspec.Struct, tag="loaded", frozen=True):
    """This rank can compute."""


class Ticks(msgspec.Struct, tag="ticks", frozen=True):
    """How far this rank has come: only grows."""

    num_ticks: int


class Ending(msgspec.Struct, tag="ending", frozen=True):
    """This rank cannot go on."""

    reason: str


FromLeader = Challenge | Admitted | Refused | Store | SharedMemory | Compute | Goodbye
FromFollower = Join | Loaded | Ticks | Ending
