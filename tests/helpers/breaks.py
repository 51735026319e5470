"""Streams that break off and go on elsewhere, as a proxy has them go on, which knows of them what it has relayed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from helpers.http_face import parse_events

DONE = "data: [DONE]"
SEAM: dict[str, Any] = {"id": "x-1", "created": 5, "stream": True}

Ask = Callable[[dict[str, Any]], Awaitable[list[Any]]]
"""Posts a body to a server of its own; the events of its answer."""
Post = Callable[[str, dict[str, Any]], Awaitable[tuple[int, Any]]]
"""Path and body -> status and answer."""


class Relayed(NamedTuple):
    """What a client has of a stream."""

    events: list[Any]
    leg: dict[str, Any]
    """Body of the leg that said the last of them."""
    num_before: int
    """Events of the legs before it."""

    @property
    def tokens(self) -> list[int]:
        params = self.leg.get("disaggregated_params") or {}
        more = [token for event in self.events[self.num_before :] for token in event["seam"][1]]
        return [*(params.get("first_gen_tokens") or []), *more]


def next_leg(relayed: Relayed) -> dict[str, Any]:
    """What another server is asked: prompt, tokens so far, characters said, no ticket."""
    events, leg = relayed.events, relayed.leg
    kept = {k: v for k, v in (leg.get("disaggregated_params") or {}).items() if k != "encoded_opaque_state"}
    params = {**kept, "request_type": "generation_only", "first_gen_tokens": relayed.tokens}
    has_ended = any(choice["finish_reason"] for event in events for choice in event["choices"])
    seam = {**SEAM, "num_chars_sent": events[-1]["seam"][0], "has_ended": has_ended}
    return {**leg, "disaggregated_params": params, "seam": seam}


def broken_behind(events: list[Any], leg: dict[str, Any], num: int) -> Relayed:
    """The stream of a leg breaks behind so many events; nothing was said since."""
    relayed = Relayed(events[:num], leg, 0)
    return Relayed(relayed.events, next_leg(relayed), num)


async def broken(ask: Ask, body: dict[str, Any], breaks: Sequence[int]) -> list[Any]:
    """What the client gets of a stream that breaks behind so many events, each server's first included; then it is
    whole."""
    relayed = Relayed([], {**body, "seam": SEAM}, 0)
    return await go_on(ask, relayed, breaks)


async def go_on(ask: Ask, relayed: Relayed, breaks: Sequence[int]) -> list[Any]:
    """
    :param relayed: by the server that broke first; its leg is asked as it stands when it has said nothing.
    """
    leg = relayed.leg
    for num in breaks:
        events = await ask(leg)
        relayed = Relayed([*relayed.events, *events[: min(num, len(events) - 1)]], leg, len(relayed.events))
        leg = next_leg(relayed)
    return [*relayed.events, *await ask(leg)]


async def context_leg(post: Post, path: str, body: dict[str, Any]) -> Relayed:
    """What a context server begins of a stream, and the leg that goes on from it."""
    wish = {k: v for k, v in body.items() if k not in ("stream", "stream_options")}
    seam = {**SEAM, **body.get("stream_options", {})}
    status, first = await post(path, {**wish, "disaggregated_params": {"request_type": "context_only"}, "seam": seam})
    assert status == 200, first
    events, params = parse_events(first["seam"]["first_chunk"]), first["choices"][0].get("disaggregated_params", {})
    leg = {**body, "disaggregated_params": {**params, "request_type": "generation_only"}}
    leg["seam"] = {**SEAM, "num_chars_sent": first["seam"].get("num_chars_sent", 0)}
    leg["prompt_token_ids" if "chat" in path else "prompt"] = first["prompt_token_ids"]
    assert events[-1] == DONE or [t for e in events for t in e["seam"][1]] == params["first_gen_tokens"]
    return Relayed(events, leg, len(events))
