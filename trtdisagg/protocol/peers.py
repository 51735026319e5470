"""The stream between two servers that hand requests over: length-prefixed msgpack frames.

    generation                                   context
       | Hello(layout, memory of all ranks) -------> |   refused when the layouts cannot be converted
       | <---- Welcome(layout, memory of all ranks)  |
       |   ... ranks meet ranks, and try links ...   |
       | HaveMet ----------------------------------> |
       | Renew([request ids]) ---------------------> |   every third of a lease, from admission on
       |   ... one-sided reads of the blocks ...     |
       | Finish(request id) -----------------------> |   gives the blocks back
       | <---- Finished(request id, valid)           |   valid: they were held until now, so what was read is right
       | Release(request id) ----------------------> |   gives the blocks back without having read them
       | <---- Computed(number, tokens, blocks)      |   of a prompt that is still computed (`cache.announcements`)
       | Check(number) ----------------------------> |   after reads of these blocks
       | <---- Checked(number, valid)                |   valid: they were not taken back until now
       | <---- Retracted(number)                     |
       | Ping / Pong                                 |

What makes a one-sided read safe is `Finished.valid`: the context server may end a lease at any time, and then what
was read is thrown away and the prefix computed instead.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.handover import KvLayout
from trtdisagg.protocol.memory import RankMemory


class PeerRanks(msgspec.Struct, frozen=True, kw_only=True):
    """A server, as others meet it for KV."""

    server: str
    incarnation: str
    layout: KvLayout
    ranks: list[RankMemory]


class Met(msgspec.Struct, frozen=True, kw_only=True):
    """How one rank of ours reaches the ranks of a server."""

    transport: str
    direction: Literal["pull", "push"]
    gb_s: float
    """Of the test block, over the slowest of its links."""
    latency_us: float


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one rank of ours fetches for one request."""

    incarnation: str
    """Of the server that holds it."""
    their_dp_rank: int
    their_blocks: list[int]
    """In token order."""
    my_blocks: list[int]
    """In token order; -1: that block is here already."""
    num_tokens: int
    timeout_ms: int


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """What a fetch of one rank did."""

    num_bytes: int
    num_descriptors: int
    seconds: float


class Hello(msgspec.Struct, tag="hello", frozen=True, kw_only=True):
    wire_version: int = WIRE_VERSION
    me: PeerRanks
    proof: bytes
    """Keyed digest of the server's challenge: knows the cluster's secret."""

    @property
    def name(self) -> str:
        return self.me.server


class Challenge(msgspec.Struct, tag="challenge", frozen=True, kw_only=True):
    """First frame on a connection, from the context server."""

    nonce: bytes


class Welcome(msgspec.Struct, tag="welcome", frozen=True, kw_only=True):
    me: PeerRanks
    lease_ms: int


class Refused(msgspec.Struct, tag="refused", frozen=True, kw_only=True):
    reason: str


class HaveMet(msgspec.Struct, tag="have_met", frozen=True, kw_only=True):
    """The links are tried: from now on only what is held is read."""


class Renew(msgspec.Struct, tag="renew", frozen=True, kw_only=True):
    request_ids: list[int]


class Finish(msgspec.Struct, tag="finish", frozen=True, kw_only=True):
    request_id: int


class Finished(msgspec.Struct, tag="finished", frozen=True, kw_only=True):
    request_id: int
    valid: bool


class Release(msgspec.Struct, tag="release", frozen=True, kw_only=True):
    request_id: int


class Ping(msgspec.Struct, tag="ping", frozen=True, kw_only=True):
    pass


class Pong(msgspec.Struct, tag="pong", frozen=True, kw_only=True):
    pass


class Computed(msgspec.Struct, tag="computed", frozen=True, kw_only=True):
    """More blocks are computed of a prompt whose KV this peer will want: all of them, from its beginning on, are told
    in order."""

    number: int
    """Of the announcement."""
    tokens: list[int]
    """As many as fill `blocks`."""
    blocks: list[int]
    dp_rank: int
    cache_salt: str | None


class Retracted(msgspec.Struct, tag="retracted", frozen=True, kw_only=True):
    """Nothing that was told of it holds any more."""

    number: int


class Check(msgspec.Struct, tag="check", frozen=True, kw_only=True):
    """Asked after blocks that were told of have been read."""

    number: int


class Checked(msgspec.Struct, tag="checked", frozen=True, kw_only=True):
    number: int
    valid: bool
    """It was not retracted until now, so what was read is right."""


FromGeneration = Hello | HaveMet | Renew | Finish | Release | Check | Ping
FromContext = Challenge | Welcome | Refused | Finished | Computed | Retracted | Checked | Pong
