"""What the probe of the engine half says: one of these a line, each as soon as it is known.

    trtdisagg doctor  ->  python -m trtdisagg.cache.probe  ->  lines of JSON

A probe that hangs is killed at its deadline; the lines it has said until then count.
"""

from __future__ import annotations

import msgspec

from trtdisagg.protocol.handover import KvLayout

MAX_PIECE_BYTES = 1 << 20


class Library(msgspec.Struct, tag="library", kw_only=True, frozen=True):
    """Something the engine half is made of, and whether it loads."""

    name: str
    version: str | None = None
    error: str | None = None
    """Why it does not load."""


class Rate(msgspec.Struct, kw_only=True, frozen=True):
    """Moves of one size."""

    num_bytes: int
    seconds: float
    """Median of one move, from the call to its end."""

    @property
    def gb_s(self) -> float:
        return self.num_bytes / self.seconds / 1e9


class MemoryRate(msgspec.Struct, tag="memory", kw_only=True, frozen=True):
    """A plain copy within the memory that pools are made of, by one thread: what a link can be measured against."""

    device: str
    rates: list[Rate]


class Layouts(msgspec.Struct, kw_only=True, frozen=True):
    """Of two servers, whose KV comes in pieces where they differ."""

    mine: KvLayout
    """Of the one that reads."""
    theirs: KvLayout


class LinkRate(msgspec.Struct, tag="link", kw_only=True, frozen=True):
    """A transport between two processes of this host."""

    transport: str
    device: str
    rates: list[Rate] = []
    piece_bytes: int = MAX_PIECE_BYTES
    """What was moved, was moved in pieces of this size."""
    error: str | None = None
    """Why nothing, or not everything, could be moved."""


ProbeLine = Library | MemoryRate | LinkRate
_DECODER: msgspec.json.Decoder[ProbeLine] = msgspec.json.Decoder(ProbeLine)


def decode_probe_line(line: bytes) -> ProbeLine:
    """
    :raises msgspec.DecodeError: when it is something else.
    """
    return _DECODER.decode(line)
