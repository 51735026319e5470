"""Which generation servers have met which context servers, whom that keeps from being routed to, who must be told.

    generation-0   ready at 5 s                     asked to meet context-0, context-1; routable when it has answered
    context-2      ready at 9 s, behind the others  routable when generation-0 has met it; generation-0 serves on

Whoever of a pair came later waits for their meeting, so that nobody's first request pays for it. An answer that it
cannot be done is an answer: then prompts are computed again there. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from trtdisagg.protocol.spec import PeerAddress
from trtdisagg.supervisor.child import Child, Meeting
from trtdisagg.supervisor.events import Action, Introduce, Unmet
from trtdisagg.supervisor.server_name import parse_name
from trtdisagg.supervisor.state import PROXY, ClusterState

MEET_TIMEOUT_S = 15.0
"""From being asked to meet until nobody waits for that any longer."""

_Pair = tuple[Child, Child]
"""A server that generates, and one that it may get KV from."""


def introductions(state: ClusterState) -> Iterator[Action]:
    """Meetings to ask for, and those that have taken too long."""
    unknown: dict[str, list[Child]] = {}
    for generation, context in _pairs_that_have_not_met(state):
        name, incarnation = generation.name, generation.incarnation or ""
        meeting = generation.meetings.get(context.incarnation or "")
        if meeting is None:
            unknown.setdefault(name, []).append(context)
        else:
            due = meeting.asked_at + MEET_TIMEOUT_S
            yield Unmet(at=due, name=name, incarnation=incarnation, server=context.name, peer=meeting.peer.incarnation)
    for name, contexts in unknown.items():
        incarnation = state.children[name].incarnation or ""
        peers = [_address(context) for context in contexts]
        yield Introduce(at=state.started_at, name=name, incarnation=incarnation, peers=peers)


def unmet(state: ClusterState) -> dict[str, list[str]]:
    """Servers that are ready but for having met others, and those."""
    waiting: dict[str, list[str]] = {}
    for pair in _pairs_that_have_not_met(state):
        if all(child.phase == "ready" for child in pair):
            older, newer = sorted(pair, key=lambda child: child.in_role_at)
            waiting.setdefault(newer.name, []).append(older.name)
    return waiting


def routable(state: ClusterState) -> list[Child]:
    """Servers that may be routed to."""
    waiting = unmet(state)
    return [child for child in state.children.values() if child.is_ready_server and child.name not in waiting]


def current(state: ClusterState, generation: Child) -> list[Meeting]:
    """Meetings of a server that count in the roles that both have now."""
    if generation.role not in ("generation", "both"):
        return []
    contexts = [child.incarnation for child in state.children.values() if child.role in ("context", "both")]
    return [meeting for incarnation, meeting in generation.meetings.items() if incarnation in contexts]


def told_of_end(state: ClusterState, name: str) -> list[Child]:
    """Those who have to know that an incarnation of a child has ended: they may hold something for it."""
    if parse_name(name).role == PROXY:
        return []
    return [child for child in state.children.values() if child.role != PROXY and child.ready is not None]


def _pairs_that_have_not_met(state: ClusterState) -> Iterator[_Pair]:
    there = [child for child in state.children.values() if child.phase in ("ready", "stalled")]
    contexts: dict[str, list[Child]] = {}
    for child in there:
        if child.role in ("context", "both") and child.ready is not None and child.ready.kv_port:
            contexts.setdefault(_model(child), []).append(child)
    for child in there:
        if child.role in ("generation", "both"):
            for context in contexts.get(_model(child), []):
                meeting = child.meetings.get(context.incarnation or "")
                if (meeting is None or meeting.link is None) and context.name != child.name:
                    yield child, context


def _model(child: Child) -> str:
    return parse_name(child.name).model


def _address(context: Child) -> PeerAddress:
    assert context.ready is not None
    return PeerAddress(
        server=context.name,
        incarnation=context.incarnation or "",
        host=context.ready.kv_host,
        port=context.ready.kv_port,
    )
