"""What a server says about the blocks it has, so that others can send requests where their beginning is computed.

In TensorRT-LLM's form, as `/kv_cache_events` gives it. A gap in `event_id` means that events were lost: whoever
follows them forgets the server's blocks and learns them anew. Hashes are those of `text/block_hash.py`, in hex.
"""

from __future__ import annotations

import msgspec


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
