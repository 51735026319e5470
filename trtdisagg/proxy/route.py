"""Which servers a request goes to: a pure function of a snapshot and a turn, round robin in each role."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from trtdisagg.errors import ModelNotFoundError, UnavailableError
from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.control import Member
from trtdisagg.registry.members import Pools, Snapshot


class Route(NamedTuple):
    context: Member | None
    """None: the generation server does it all."""
    generation: Member


def speaks_seam(member: Member) -> bool:
    """Whether what trtdisagg adds to upstream's protocol may be used with this server."""
    return member.wire_version == WIRE_VERSION


def choose(snapshot: Snapshot, model: str, turn: int, avoid: Collection[str] = ()) -> Route:
    """Choose both servers together.

    :param turn: counts the requests of the model.
    :param avoid: names of servers that have failed this request. Where no other context server is left, generation
        does it all; where no other generation server is left, one of them is asked again.
    :raises ModelNotFoundError: the model was never served here.
    :raises UnavailableError: it is, but not now.
    """
    pools = _pools(snapshot, model)
    if not pools.generation:
        raise UnavailableError(f"No generation server for `{model}` is ready")
    generation = _pick(pools.generation, turn, avoid) or pools.generation[turn % len(pools.generation)]
    context = _pick(pools.context, turn, avoid)
    return Route(None if context == generation else context, generation)


def choose_successor(snapshot: Snapshot, model: str, turn: int, avoid: Collection[str]) -> Member:
    """Choose a generation server that goes on with a request whose first token is already with the client.

    :raises UnavailableError: when there is none that speaks the seam.
    """
    able = [m for m in _pools(snapshot, model).generation if speaks_seam(m)]
    if not able:
        raise UnavailableError(f"No generation server for `{model}` is ready to go on with this answer")
    return _pick(able, turn, avoid) or able[turn % len(able)]


def _pools(snapshot: Snapshot, model: str) -> Pools:
    if (pools := snapshot.pools.get(model)) is not None:
        return pools
    if snapshot.pools:
        raise ModelNotFoundError(f"The model `{model}` is not served here; see /v1/models", param="model")
    raise UnavailableError("No server is ready")


def _pick(members: Sequence[Member], turn: int, avoid: Collection[str]) -> Member | None:
    if avoid:
        members = [m for m in members if m.name not in avoid]
    return members[turn % len(members)] if members else None
