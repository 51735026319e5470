"""One of several servers, by a router's type. What is equal is taken in turns.

    round_robin       the next
    load_balancing    the one with the fewest requests in flight, or tokens
    kv_cache_aware    the highest score: share of the prompt that it has in its cache - its load; see `_most_cached`
    session           where the conversation was before, unless that one is overloaded; a request of none: where most
                      of its prompt is, if that is most of the prompt; else as load_balancing

In flight is what has been routed, from that moment on: a burst is spread before the first of it has arrived anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import NamedTuple

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import RouterSpec
from trtdisagg.proxy.routing.ask import Ask, View

MIN_SHARE = 0.5
"""Of its prompt that a request without a session must find on a server to go there whatever the load."""
OVERLOADED = 2
"""A server with so many times the average of requests is too busy for its conversations, too."""
TOKENS_PER_BLOCK = 32
"""Where a server does not say."""


class Pick(NamedTuple):
    member: Member
    is_blind: bool = False
    """The router goes by what servers have in their caches, and nobody knows that."""


def pick(router: RouterSpec, members: Sequence[Member], ask: Ask, view: View) -> Pick:
    """
    :param members: at least one.
    """
    if len(members) == 1:
        return Pick(members[0])
    match router.type:
        case "round_robin":
            return Pick(members[ask.turn % len(members)])
        case "load_balancing":
            return Pick(_least_loaded(router, members, ask, view))
        case "kv_cache_aware":
            return _most_cached(router, members, ask, view)
        case "session":
            return Pick(_sticky(router, members, ask, view))


def _least_loaded(router: RouterSpec, members: Sequence[Member], ask: Ask, view: View) -> Member:
    load_of, kind = view.load_of, int(router.use_tokens)
    least, first = math.inf, [members[0]]
    for member in members:
        load = load_of(member)[kind]
        if load < least:
            least, first = load, [member]
        elif load == least:
            first.append(member)
    return first[ask.turn % len(first)]


def _loads(router: RouterSpec, members: Sequence[Member], view: View) -> list[int]:
    load_of, kind = view.load_of, int(router.use_tokens)
    return [load_of(member)[kind] for member in members]


def _in_turn(members: Sequence[Member], values: Sequence[float], best: float, turn: int) -> Member:
    """The next of those that have the best value."""
    first = [member for member, value in zip(members, values, strict=True) if value == best]
    return first[turn % len(first)]


def _most_cached(router: RouterSpec, members: Sequence[Member], ask: Ask, view: View) -> Pick:
    """TensorRT-LLM's score: tokens found / the prompt's, filled up to whole blocks - requests / max_batch_size.

    With use_tokens the load is tokens / (max_batch_size * the prompt's), as if each request were like this one, so that
    both terms stay of one size.
    """
    matches = [view.match_of(member, ask) for member in members]
    if all(match is None for match in matches):
        return Pick(_least_loaded(router, members, ask, view), is_blind=True)
    scores = []
    for member, match, load in zip(members, matches, _loads(router, members, view), strict=True):
        padded = _padded(ask.num_prompt_tokens, member.tokens_per_block or TOKENS_PER_BLOCK)
        full = router.max_batch_size * (padded if router.use_tokens else 1)
        scores.append((match or 0) / padded - load / full)
    return Pick(_in_turn(members, scores, max(scores), ask.turn))


def _padded(num_tokens: int, tokens_per_block: int) -> int:
    return max(1, -(-num_tokens // tokens_per_block)) * tokens_per_block


def _sticky(router: RouterSpec, members: Sequence[Member], ask: Ask, view: View) -> Member:
    """Rendezvous hashing: each conversation ranks the servers in its own way. One that leaves, or is too busy, moves
    its conversations and no others; each to the next in its rank, always the same."""
    calm = _not_overloaded(router, members, view)
    if ask.session is not None:
        session = ask.session.encode(errors="surrogateescape") + b"\0"  # a header need not be UTF-8
        return max(calm, key=lambda member: _rank(session, member.name))
    matches = [view.match_of(member, ask) or 0 for member in calm]
    if ask.num_prompt_tokens and (longest := max(matches)) >= MIN_SHARE * ask.num_prompt_tokens:
        calm = [member for member, match in zip(calm, matches, strict=True) if match == longest]
    return _least_loaded(router, calm, ask, view)


def _rank(session: bytes, name: str) -> bytes:
    return blake2b(session + name.encode(), digest_size=8).digest()


def _not_overloaded(router: RouterSpec, members: Sequence[Member], view: View) -> Sequence[Member]:
    """Never empty: not all have twice the average. Half a batch is no overload, however idle the others are."""
    requests = [view.load_of(member).num_requests for member in members]
    limit = max(router.max_batch_size / 2, OVERLOADED * sum(requests) / len(members))
    return [member for member, number in zip(members, requests, strict=True) if number <= limit]
