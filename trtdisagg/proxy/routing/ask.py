"""What routing looks at of a request, and of servers. Values alone: no sockets, no clocks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from trtdisagg.protocol.control import Member


class Ask(msgspec.Struct, kw_only=True, frozen=True):
    """One request, as routing sees it."""

    model: str
    turn: int = 0
    """Counts the requests."""
    avoid: Collection[str] = ()
    """Names of servers that have failed this request."""
    num_prompt_tokens: int = 0
    """Exact where the prompt was read, else estimated from its bytes."""
    max_tokens: int | None = None
    """Of the answer."""
    session: str | None = None
    """X-Session-ID, or the conversation."""
    chains: Mapping[tuple[str, int], Sequence[int]] = {}
    """By (root model, tokens per block): a key (text/block_hash.py) for each full block of the prompt. Empty: the
    prompt was not read."""
    needs_one_server: bool = False
    """What it asks for is not handed over."""


class Load(NamedTuple):
    """What is in flight on a server, over all workers of the proxy."""

    num_requests: int = 0
    num_tokens: int = 0
    """Of their prompts and of the answers they may get, as far as is known."""


LoadOf = Callable[[Member], Load]
MatchOf = Callable[[Member, Ask], int | None]
"""How many tokens of a prompt a server has in its cache; None: nobody knows what it has."""
