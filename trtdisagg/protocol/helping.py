"""What ranks of two servers say to each other about KV that is packed on its way: length-prefixed msgpack frames.

    the rank that fetches                     the rank that holds
       | <----------------------- Challenge(nonce)  |
       | RankHello(memory, region, proof) --------> |
       | <----------- RankWelcome(slot) or Refused  |
       |   ... measures the link ...                |
       | Measured --------------------------------> |   it need not serve but while it holds something
       |                                            |
       | Pack(piece, runs) -----------------------> |   into a slot of its staging buffer
       | <-------------------- Packed(piece, offset)|
       |   ... reads the slot ...                   |
       | Done(piece) -----------------------------> |   the slot is free again
       | <---------------------------- Freed(piece) |   it was not before: what was read is whole
       |                                            |
       | Push(piece, runs, to_offset) ------------> |   packs, and writes into a slot of the other's staging buffer
       | <--------------------------- Pushed(piece) |   nothing is written there any more
       | Ping, every few seconds -----------------> |

Unable(piece, error) may answer Pack and Push; then, too, nothing is written any more. The holder ends the connection
only when it writes no more; so its end, also by the death of the holder, says the same of all pieces.
"""

from __future__ import annotations

import msgspec

from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.memory import Memory, Region
from trtdisagg.protocol.peers import Challenge, Ping, Refused

MAX_RUNS = 1 << 15
"""Of a piece: they fit into a frame."""


class RankHello(msgspec.Struct, tag="rank_hello", frozen=True, kw_only=True):
    wire_version: int = WIRE_VERSION
    incarnation: str
    rank: int
    memory: list[Memory]
    """Where its staging buffer can be written, one entry per transport."""
    region: Region
    proof: bytes
    """Keyed digest of the challenge: knows the cluster's secret."""

    @property
    def name(self) -> str:
        return f"{self.incarnation}, rank {self.rank}"


class RankWelcome(msgspec.Struct, tag="rank_welcome", frozen=True, kw_only=True):
    slot_bytes: int
    """Of its staging buffer: larger pieces are not packed."""


class Pack(msgspec.Struct, tag="pack", frozen=True, kw_only=True):
    piece: int
    runs: bytes
    """int64, little endian: offset and length of each run in the holder's blocks, in the order of the packed bytes."""


class Packed(msgspec.Struct, tag="packed", frozen=True, kw_only=True):
    piece: int
    offset: int
    """In the holder's region."""


class Done(msgspec.Struct, tag="done", frozen=True, kw_only=True):
    piece: int


class Freed(msgspec.Struct, tag="freed", frozen=True, kw_only=True):
    piece: int


class Push(msgspec.Struct, tag="push", frozen=True, kw_only=True):
    piece: int
    runs: bytes
    """As of Pack."""
    to_offset: int
    """In the region of the rank that fetches, within its staging buffer."""


class Pushed(msgspec.Struct, tag="pushed", frozen=True, kw_only=True):
    piece: int


class Measured(msgspec.Struct, tag="measured", frozen=True, kw_only=True):
    pass


class Unable(msgspec.Struct, tag="unable", frozen=True, kw_only=True):
    piece: int
    error: str


FromFetcher = RankHello | Pack | Push | Done | Measured | Ping
FromHolder = Challenge | RankWelcome | Refused | Packed | Freed | Pushed | Unable
