"""What the measuring program tells its ranks to do, one line of JSON each; each is answered by one line: `Done` where
nothing else is said, `Refused` where it could not be done."""

from __future__ import annotations

import msgspec

from trtdisagg.protocol.bench_kv import Way
from trtdisagg.protocol.handover import KvLayout
from trtdisagg.protocol.memory import RankMemory
from trtdisagg.protocol.peers import Met, Part, PeerRanks
from trtdisagg.protocol.spec import Transport


class OpenPool(msgspec.Struct, tag="open_pool", kw_only=True, frozen=True):
    """Be this rank of such a server; what was open before is closed."""

    layout: KvLayout
    rank: int
    blocks: list[int]
    """Those of a prompt that has been computed, in token order."""


class OpenMover(msgspec.Struct, tag="open_mover", kw_only=True, frozen=True):
    """Offer the pool by one transport; answered by `Offered`."""

    transport: Transport
    incarnation: str


class Meet(msgspec.Struct, tag="meet", kw_only=True, frozen=True):
    """Reach the ranks of the context server; answered by `Reached`."""

    peer: PeerRanks


class Prepare(msgspec.Struct, tag="prepare", kw_only=True, frozen=True):
    """This is the request to be moved from now on."""

    part: Part


class Move(msgspec.Struct, tag="move", kw_only=True, frozen=True):
    """Move our share of the request; answered by `Timed`."""

    way: Way


class Check(msgspec.Struct, tag="check", kw_only=True, frozen=True):
    """Look at what has arrived, and wipe it out; answered by `Checked`."""


class Done(msgspec.Struct, tag="done", kw_only=True, frozen=True):
    pass


class Timed(msgspec.Struct, tag="timed", kw_only=True, frozen=True):
    """In seconds of the host's monotonic clock, which its processes share."""

    begun: float
    ended: float
    cpu_s: float
    """That all threads of the rank have spent meanwhile."""
    num_bytes: int
    num_descriptors: int


class Checked(msgspec.Struct, tag="checked", kw_only=True, frozen=True):
    wrong: str | None = None


class Refused(msgspec.Struct, tag="refused", kw_only=True, frozen=True):
    """It could not be done."""

    message: str


class Reached(msgspec.Struct, tag="reached", kw_only=True, frozen=True):
    met: Met


class Offered(msgspec.Struct, tag="offered", kw_only=True, frozen=True):
    memory: RankMemory


Order = OpenPool | OpenMover | Meet | Prepare | Move | Check
Answer = Done | Offered | Reached | Timed | Checked | Refused
