"""What a server says about the blocks it has, so that others can send requests where their beginning is computed.

Ours: `GET /kv_events` answers with a stream that does not end: a KvSnapshot, then a KvChange for whatever changes (and
an empty one each second), each as msgpack behind its length (4 bytes, big endian). Events are made as long as somebody
listens. A gap in `sequence`, or another incarnation, means that the index is of no use: connect again.

The rest is TensorRT-LLM's form, as `/kv_cache_events` gives it, hashes in hex. A gap in `event_id` means that events
were lost: whoever follows them forgets the server's blocks and learns them anew. Hashes are those of
`text/block_hash.py`: one names a whole beginning of a text, up to and with its block.
"""

from __future__ import annotations

import msgspec

from trtdisagg.protocol import WIRE_VERSION


class KvSnapshot(msgspec.Struct, tag="snapshot", kw_only=True, frozen=True):
    wire_version: int = WIRE_VERSION
    incarnation: str
    tokens_per_block: int
    root_model: str
    """What the server puts into `root_hash` beside a request's salt."""
    sequence: int
    hashes: bytes
    """Of all full blocks that can be found, one behind the other, in no order."""


class KvChange(msgspec.Struct, tag="change", kw_only=True, frozen=True):
    sequence: int
    """One more than that of the message before."""
    stored: bytes = b""
    """Hashes that can be found from now on."""
    removed: bytes = b""
    """And no more. Of a hash that is in both, the block is there."""


class Created(msgspec.Struct, tag_field="type", tag="created", frozen=True):
    """The cache is empty: at its start, or because nothing in it is trusted any more."""

    num_blocks_per_cache_level: list[int]
    """In the pool, and in host memory."""


class StoredBlock(msgspec.Struct, tag_field="type", tag="stored_block", kw_only=True, frozen=True):
    block_hash: str
    tokens: list[int]
    cache_level: int = 0
    """0: in the pool; 1: in host memory."""


class Stored(msgspec.Struct, tag_field="type", tag="stored", kw_only=True, frozen=True):
    """Full blocks can be found from now on, one behind the other."""

    parent_hash: str
    """Of what is before the first one; at the beginning of a text the root's."""
    blocks: list[StoredBlock]


class Removed(msgspec.Struct, tag_field="type", tag="removed", frozen=True):
    """Blocks can be found no more."""

    block_hashes: list[str]


class LevelChange(msgspec.Struct, tag_field="type", tag="event_diff", kw_only=True, frozen=True):
    old_value: int
    new_value: int


class Updated(msgspec.Struct, tag_field="type", tag="updated", kw_only=True, frozen=True):
    """A block went to another cache level."""

    block_hash: str
    cache_level: LevelChange


class KvEvent(msgspec.Struct, kw_only=True, frozen=True):
    event_id: int
    """Counts up by one."""
    data: Created | Stored | Removed | Updated
