"""What routing looks at of a request, and of servers. Values alone: no sockets, no clocks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import ANY_MODEL, ModelSpec

_PLAIN = ModelSpec()


class Ask(msgspec.Struct, kw_only=True, frozen=True):
    """One request, as routing sees it."""

    model: str
    turn: int = 0
    """Counts the requests of the model."""
    avoid: Collection[str] = ()
    """Names of servers that have failed this request."""
    num_prompt_tokens: int = 0
    """Exact where the prompt was read or came as token ids, else estimated from its bytes."""
    is_exact: bool = False
    """There is one prompt, and `num_prompt_tokens` is exact."""
    max_tokens: int | None = None
    """Of each answer; None: as many as the server can hold."""
    num_answers: int = 1
    """That a server computes at once: prompts times answers to each."""
    session: str | None = None
    """X-Session-ID, or the conversation."""
    chains: Mapping[tuple[str, int], Sequence[int]] = {}
    """By (root model, tokens per block): a key (text/block_hash.py) for each full block of the prompt. Empty: the
    prompt was not read."""
    needs_one_server: bool = False
    """What it asks for is not handed over."""

    @property
    def least_tokens(self) -> int:
        """That a server must be able to hold for one answer."""
        return self.num_prompt_tokens + (1 if self.max_tokens is None else self.max_tokens)

    @property
    def num_tokens(self) -> int:
        """Of the prompt and of all answers, as far as is known."""
        return self.num_prompt_tokens + self.num_answers * (self.max_tokens or 0)


class Load(NamedTuple):
    """What is in flight on a server, over all workers of the proxy."""

    num_requests: int = 0
    """Answers that it computes: a request for several counts as several."""
    num_tokens: int = 0
    """Of their prompts and of the answers they may get, as far as is known."""


LoadOf = Callable[[Member], Load]
MatchOf = Callable[[Member, Ask], int | None]
"""How many tokens of a prompt a server has in its cache; None: nobody knows what it has."""


class View(NamedTuple):
    """What is known beside the snapshot."""

    load_of: LoadOf
    match_of: MatchOf
    models: Mapping[str, ModelSpec] = {}
    kv_overcommit: float = 2.0
    """Tokens that may be promised for each token of a generation server's KV cache."""

    def model(self, name: str) -> ModelSpec:
        return self.models.get(name) or self.models.get(ANY_MODEL) or _PLAIN
