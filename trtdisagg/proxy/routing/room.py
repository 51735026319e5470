"""Whether a generation server has room for one more request, and whether a server can hold it at all.

What a server does not say (its limits are None) does not limit it.
"""

from __future__ import annotations

from collections.abc import Sequence

from trtdisagg.errors import ContextLengthError
from trtdisagg.protocol.control import Member
from trtdisagg.proxy.routing.ask import Ask, View

BATCHES = 1.25
"""That may be on a server: what is beyond one batch waits there, so that the batch fills again at once, without a way
through the proxy; the rest waits here, where it may still go to whichever server is the first to have room."""

UNKNOWN_TOKENS = 1 << 20
"""Of one answer, where a server does not say how many it can hold."""


def has_room(member: Member, ask: Ask, view: View) -> bool:
    """Whether a generation server can begin with a request, or will soon.

    Answers may promise more tokens than a server's KV cache has, because most end long before their max_tokens; how
    much more is `kv_overcommit`. A request for several answers needs room for one of them: it would have to wait for
    the server to be idle, and others behind it. A server without work has room for anything.
    """
    num_requests, num_tokens = view.load_of(member)
    if not num_requests:
        return True
    batch_size, num_blocks, tokens_per_block = member.max_batch_size, member.num_blocks, member.tokens_per_block
    if batch_size and num_requests >= BATCHES * batch_size:
        return False
    if not num_blocks or not tokens_per_block:
        return True
    left = view.kv_overcommit * num_blocks * tokens_per_block - num_tokens
    return ask.num_tokens <= left or _num_new_tokens(member, ask, view) <= left


def _num_new_tokens(member: Member, ask: Ask, view: View) -> int:
    """Those that are not in its cache, and no more than it would take."""
    num_tokens = min(ask.num_tokens, member.max_seq_len or ask.num_tokens)
    return num_tokens - (view.match_of(member, ask) or 0)


def most_tokens(member: Member, ask: Ask) -> int:
    """That a request may take on a server, whatever it asks for."""
    return min(ask.num_tokens, ask.num_answers * (member.max_seq_len or UNKNOWN_TOKENS))


def can_hold(member: Member, num_tokens: int) -> bool:
    """Whether a server is large enough for so many tokens of one request."""
    return member.max_seq_len is None or num_tokens <= member.max_seq_len


def that_can_hold(members: Sequence[Member], ask: Ask) -> Sequence[Member]:
    """Those of these generation servers that are large enough: all of them, where the tokens are only estimated.

    :raises ContextLengthError: none is.
    """
    if not ask.is_exact:
        return members
    if large := [member for member in members if can_hold(member, ask.least_tokens)]:
        return large
    most = max(member.max_seq_len or 0 for member in members)
    asked = f" and max_tokens is {ask.max_tokens}" if ask.max_tokens else ""
    raise ContextLengthError(
        f"The prompt has {ask.num_prompt_tokens} tokens{asked}, but the servers that answer hold at most {most} tokens "
        "of prompt and answer together (max_seq_len)",
        param="prompt" if ask.num_prompt_tokens >= most else "max_tokens",
    )
