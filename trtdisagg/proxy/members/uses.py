"""Which servers are in use, how much is in flight on each, and which of those have left.

A request counts on both its servers from the moment it is routed, so that the next one sees it:

                        load (what routing looks at)      use (what keeps a server that has left)
    context server      until its leg is answered         until its KV has been taken over or is not needed any more
    generation server   to the end of the answer          the same

A server that has left and is not in use is removed. Scripts wait for the line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from trtdisagg.protocol.control import Member
from trtdisagg.proxy.routing.ask import Ask, Load
from trtdisagg.proxy.routing.room import most_tokens
from trtdisagg.registry.members import Roster

logger = logging.getLogger(__name__)

_NOTHING = Load()


class Elsewhere(Protocol):
    """The other processes of this proxy: each knows of all what is in flight on every server."""

    def load(self, identity: str) -> Load:
        """What all others have in flight on a server."""

    def tell(self, identity: str, load: Load) -> None:
        """What this one has, whenever it changes."""


class _InUse:
    """What counts on one server."""

    __slots__ = ("_load", "num_requests", "num_tokens", "num_uses")

    def __init__(self) -> None:
        self.num_uses = 0
        self.num_requests = 0
        self.num_tokens = 0
        self._load: Load | None = None

    @property
    def load(self) -> Load:
        """Made when it is looked at: that is as often as it changes, or less."""
        if self._load is None:
            self._load = Load(self.num_requests, self.num_tokens)
        return self._load

    def add(self, num_requests: int, num_tokens: int) -> None:
        self.num_requests += num_requests
        self.num_tokens += num_tokens
        self._load = None
        assert self.num_requests >= 0
        assert self.num_tokens >= 0


class Uses:
    """Counts requests and tokens by server, be it a member still or not.

    :param elsewhere: None: this process is the only one.
    """

    def __init__(self, roster: Roster, elsewhere: Elsewhere | None = None) -> None:
        self._roster = roster
        self._elsewhere = elsewhere
        self._servers: dict[str, _InUse] = {}
        self._here: dict[str, str] = {}
        self._leaving: dict[str, str] = {}
        """Identity -> address, of those that have left and are in use."""
        self._watchers: list[Callable[[Member], None]] = []
        roster.watch(self._look)

    def claim(self, ask: Ask) -> Claim:
        """What one request counts on, for a `with` block."""
        return Claim(self, ask)

    def in_use(self) -> dict[str, int]:
        """How many requests count on each server, by its identity; only those that are in use."""
        return {identity: server.num_uses for identity, server in self._servers.items()}

    def load(self, member: Member) -> Load:
        """What is in flight on a server, over all processes of the proxy."""
        server = self._servers.get(member.identity)
        ours = _NOTHING if server is None else server.load
        if self._elsewhere is None:
            return ours
        theirs = self._elsewhere.load(member.identity)
        return Load(ours.num_requests + theirs.num_requests, ours.num_tokens + theirs.num_tokens)

    def watch(self, on_less: Callable[[Member], None]) -> None:
        """Have a function called whenever less is in flight on a server."""
        self._watchers.append(on_less)

    def begin(self, member: Member, num_requests: int, num_tokens: int) -> None:
        server = self._servers.setdefault(member.identity, _InUse())
        server.num_uses += 1
        server.add(num_requests, num_tokens)
        self._tell(member, server)

    def lighten(self, member: Member, num_requests: int, num_tokens: int) -> None:
        """So much is not in flight any more; the server is in use all the same."""
        server = self._servers[member.identity]
        server.add(-num_requests, -num_tokens)
        self._tell(member, server)
        for on_less in self._watchers:
            on_less(member)

    def end(self, member: Member) -> None:
        key = member.identity
        server = self._servers[key]
        server.num_uses -= 1
        if not server.num_uses:
            assert not server.num_requests
            assert not server.num_tokens
            del self._servers[key]
            if (url := self._leaving.pop(key, None)) is not None:
                _say_removed(url)

    def _tell(self, member: Member, server: _InUse) -> None:
        if self._elsewhere is not None:
            self._elsewhere.tell(member.identity, server.load)

    def _look(self) -> None:
        here = {member.identity: member.url for member in self._roster.members}
        left = {key: url for key, url in self._here.items() if key not in here}
        self._here = here
        self._leaving = {key: url for key, url in {**self._leaving, **left}.items() if key not in here}
        for key in left:
            if key not in self._servers:
                _say_removed(self._leaving.pop(key))


class Claim:
    """The servers that one request counts on."""

    __slots__ = ("_ask", "_context", "_generation", "_is_prefilled", "_num_tokens", "_uses")

    def __init__(self, uses: Uses, ask: Ask) -> None:
        self._uses = uses
        self._ask = ask
        self._context: Member | None = None
        self._is_prefilled = False
        self._generation: Member | None = None
        self._num_tokens = 0
        """That count there."""

    def take(self, context: Member | None, generation: Member) -> None:
        """Count on these servers instead of those before."""
        self.drop_context()
        if context is not None:
            self._uses.begin(context, 1, self._ask.num_prompt_tokens)
            self._context, self._is_prefilled = context, False
        self.take_generation(generation)

    def take_generation(self, member: Member) -> None:
        self.drop_generation()
        self._num_tokens = most_tokens(member, self._ask)
        self._uses.begin(member, self._ask.num_answers, self._num_tokens)
        self._generation = member

    def prefilled(self) -> None:
        """The context server has answered: it holds KV for the request, and computes no more for it."""
        if self._context is not None and not self._is_prefilled:
            self._is_prefilled = True
            self._uses.lighten(self._context, 1, self._ask.num_prompt_tokens)

    def drop_context(self) -> None:
        """What the context server holds has been taken over, or is not needed any more."""
        if self._context is not None:
            self.prefilled()
            self._uses.end(self._context)
            self._context = None

    def drop_generation(self) -> None:
        """Another one will be asked."""
        if self._generation is not None:
            self._uses.lighten(self._generation, self._ask.num_answers, self._num_tokens)
            self._uses.end(self._generation)
            self._generation = None

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop_context()
        self.drop_generation()


def _say_removed(url: str) -> None:
    logger.info("Server %s is removed", url)
