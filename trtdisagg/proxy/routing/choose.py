"""Both servers of a request together: first the one that generates, then the one that computes the prompt, if any.

    able to hold it -> not yet failed -> with room -> the router's pick

Generation comes first, because it is where there must be room before anything is computed. A prompt goes to it alone
when little of it is left to compute there (`max_local_prefill_length`): a handover costs more than that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from trtdisagg.errors import ModelNotFoundError, UnavailableError
from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import ModelSpec
from trtdisagg.proxy.records.record import Path
from trtdisagg.proxy.routing.ask import Ask, View
from trtdisagg.proxy.routing.policies import Pick, pick
from trtdisagg.proxy.routing.room import can_hold, has_room, that_can_hold
from trtdisagg.registry.members import Pools, Snapshot


class Route(NamedTuple):
    context: Member | None
    """None: the generation server does it all."""
    generation: Member
    path: Path
    is_blind: bool = False
    """A router that goes by what servers have in their caches did not know that of any."""


def speaks_seam(member: Member) -> bool:
    """Whether what trtdisagg adds to upstream's protocol may be used with this server."""
    return member.wire_version == WIRE_VERSION


def choose(snapshot: Snapshot, ask: Ask, view: View) -> Route | None:
    """Choose both servers together; None: there are some, but none has room now.

    Where no other context server than those that failed is left, generation does it all; where no other generation
    server is left, one of them is asked again.

    :raises ModelNotFoundError: the model was never served here.
    :raises UnavailableError: it is, but not now.
    :raises ContextLengthError: no server can hold it.
    """
    pools, model = _pools(snapshot, ask.model), view.model(ask.model)
    if not pools.generation:
        raise UnavailableError(f"No generation server for `{ask.model}` is ready")
    picked = _generation(pools.generation, model, ask, view)
    if picked is None:
        return None
    generation = picked.member
    if (alone := _why_alone(generation, model, ask, view)) is not None:
        return Route(None, generation, alone, picked.is_blind)
    contexts = _without(pools.context, ask.avoid)
    if ask.is_exact:
        contexts = [m for m in contexts if can_hold(m, ask.num_prompt_tokens + 1)]
    if not contexts:
        return Route(None, generation, "no_context", picked.is_blind)
    context = pick(model.context_router, contexts, ask, view)
    is_blind = picked.is_blind or context.is_blind
    if context.member == generation:
        return Route(None, generation, "alone", is_blind)
    return Route(context.member, generation, "both", is_blind)


def choose_successor(snapshot: Snapshot, ask: Ask, view: View) -> Member:
    """Choose a generation server that goes on with a request whose first token is already with the client. It need not
    have room: the client has waited for that once.

    :raises UnavailableError: when there is none that speaks the seam.
    :raises ContextLengthError: when none can hold it.
    """
    members: Sequence[Member] = [m for m in _pools(snapshot, ask.model).generation if speaks_seam(m)]
    if not members:
        raise UnavailableError(f"No generation server for `{ask.model}` is ready to go on with this answer")
    members = that_can_hold(members, ask)
    others = _without(members, ask.avoid) or members
    roomy = [m for m in others if has_room(m, ask, view)]
    return pick(view.model(ask.model).generation_router, roomy or others, ask, view).member


def _generation(members: Sequence[Member], model: ModelSpec, ask: Ask, view: View) -> Pick | None:
    large = that_can_hold(members, ask)
    roomy = [m for m in _without(large, ask.avoid) or large if has_room(m, ask, view)]
    return pick(model.generation_router, roomy, ask, view) if roomy else None


def _why_alone(generation: Member, model: ModelSpec, ask: Ask, view: View) -> Path | None:
    if ask.needs_one_server:
        return "indivisible"
    if model.max_local_prefill_length is None:
        return None
    if ask.num_prompt_tokens <= model.max_local_prefill_length:
        return "short"
    left = ask.num_prompt_tokens - (view.match_of(generation, ask) or 0)
    return "cached" if left <= model.max_local_prefill_length else None


def _pools(snapshot: Snapshot, model: str) -> Pools:
    if (pools := snapshot.pools.get(model)) is not None:
        return pools
    if snapshot.pools:
        raise ModelNotFoundError(f"The model `{model}` is not served here; see /v1/models", param="model")
    raise UnavailableError("No server is ready")


def _without(members: Sequence[Member], avoid: Collection[str]) -> Sequence[Member]:
    return [m for m in members if m.name not in avoid] if avoid else members
