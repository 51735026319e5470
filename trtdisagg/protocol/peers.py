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

TEST_BYTES = 1 << 20
"""Of the block that is moved to test a link."""
_PAGE_BYTES = 4096


class Region(msgspec.Struct, frozen=True, kw_only=True):
    """What lies where in the memory that a rank lets others reach. All offsets count from block 0.

    | blocks | pad | pattern | sink | staging ... |
    0        pool_bytes      |      |             num_bytes
                   pattern_offset   staging_offset
    """

    pool_bytes: int
    staging_bytes: int = 0
    """What is packed for others, or written by them, goes through here."""

    @property
    def pattern_offset(self) -> int:
        """`TEST_BYTES` of known content, for who tests a link."""
        return -(-self.pool_bytes // _PAGE_BYTES) * _PAGE_BYTES

    @property
    def sink_offset(self) -> int:
        """`TEST_BYTES` to move a pattern into."""
        return self.pattern_offset + TEST_BYTES

    @property
    def staging_offset(self) -> int:
        return self.sink_offset + TEST_BYTES

    @property
    def num_bytes(self) -> int:
        return self.staging_offset + self.staging_bytes


class LocalMemory(msgspec.Struct, tag="local", frozen=True, kw_only=True):
    """A pool in a memfd that a process of the same host and user may map through `/proc/PID/fd/FD`."""

    pid: int
    fd: int
    region: Region
    nonce: bytes
    """Written at the end of the mapping: proves that it is the pool meant (pid namespaces, reused pids)."""


class _AgentMemory(msgspec.Struct, frozen=True, kw_only=True):
    """A region registered with a NIXL agent."""

    plugin: str
    """Of both sides: `UCX`, `LIBFABRIC`."""
    agent: str
    metadata: bytes
    base: int
    region: Region
    device_id: int
    kind: str
    """`DRAM` or `VRAM`."""


class NixlMemory(_AgentMemory, tag="nixl", frozen=True):
    """For NIXL with the settings that it comes with."""


class UcxMemory(_AgentMemory, tag="ucx", frozen=True):
    """For NIXL's UCX plugin with settings of our own."""


class MpiMemory(msgspec.Struct, tag="mpi", frozen=True, kw_only=True):
    """A region that its owner sends from by MPI, to those that ask where it listens."""

    host: str
    port: int
    key: bytes
    """Whoever asks must know it; another one for each start of a server."""
    region: Region


AgentMemory = NixlMemory | UcxMemory
Memory = LocalMemory | AgentMemory | MpiMemory


class RankMemory(msgspec.Struct, frozen=True, kw_only=True):
    """One rank of a server, as ranks of other servers reach it."""

    host: str
    port: int
    """Where its mover listens, for what needs its help; 0: nothing does."""
    memory: list[Memory]
    """Its pool, one entry per transport, best first."""


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
