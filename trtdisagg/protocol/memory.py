"""What ranks tell each other of the memory that their KV is in: what lies where, and how each transport reaches it."""

from __future__ import annotations

import msgspec

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
