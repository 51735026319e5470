"""What rank 0 of a server says to the movers of its other ranks, and hears of them.

    rank 0                                  another rank
       | Describe, MeetRanks, FetchPart, ForgetPeer (call_id) -> |
       | <------------------------- Answer | Failure (call_id)   |   in any order
       | Cancel(call_id) --------------------------------------> |   the call is answered all the same
       | SetServing -------------------------------------------> |   not answered
       | Ping / Pong                                             |

The frames are those of the stream between servers (`cache.streams`).
"""

from __future__ import annotations

import msgspec

from trtdisagg.protocol.peers import Part, PeerRanks, Ping, Pong


class Describe(msgspec.Struct, tag="describe", frozen=True, kw_only=True):
    """Answered by a RankMemory."""

    call_id: int


class MeetRanks(msgspec.Struct, tag="meet_ranks", frozen=True, kw_only=True):
    """Answered by a Met."""

    call_id: int
    peer: PeerRanks


class FetchPart(msgspec.Struct, tag="fetch_part", frozen=True, kw_only=True):
    """Answered by a Moved, when nothing is written any more."""

    call_id: int
    part: Part


class ForgetPeer(msgspec.Struct, tag="forget_peer", frozen=True, kw_only=True):
    """Answered by None."""

    call_id: int
    incarnation: str


class Cancel(msgspec.Struct, tag="cancel", frozen=True, kw_only=True):
    """Nobody wants the result any more, but still to know when there is an end."""

    call_id: int


class SetServing(msgspec.Struct, tag="set_serving", frozen=True, kw_only=True):
    is_serving: bool


class Answer(msgspec.Struct, tag="answer", frozen=True, kw_only=True):
    call_id: int
    result: msgspec.Raw
    """What the call says, as msgpack."""


class Failure(msgspec.Struct, tag="failure", frozen=True, kw_only=True):
    """The call ended without a result."""

    call_id: int
    error: str


Call = Describe | MeetRanks | FetchPart | ForgetPeer
ToMover = Call | Cancel | SetServing | Ping
FromMover = Answer | Failure | Pong
