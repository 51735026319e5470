"""Which servers are in use, and which of those have left: one that has left and is not in use is removed.

A request counts on both its servers from the moment it is routed: on the context server until its KV has been taken
over or is not needed any more, on the generation server to its end. Scripts wait for the line in the log.
"""

from __future__ import annotations

import logging
from collections import Counter
from types import TracebackType

from trtdisagg.protocol.control import Member
from trtdisagg.registry.members import Roster

logger = logging.getLogger(__name__)


class Uses:
    """Counts requests by server, be it a member still or not."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._counts: Counter[str] = Counter()
        self._here: dict[str, str] = {}
        self._leaving: dict[str, str] = {}
        """Identity -> address, of those that have left and are in use."""
        roster.watch(self._look)

    def claim(self) -> Claim:
        """What one request counts on, for a `with` block."""
        return Claim(self)

    def in_use(self) -> dict[str, int]:
        """How many requests count on each server, by its identity; only those that are in use."""
        return dict(self._counts)

    def begin(self, member: Member) -> None:
        self._counts[member.identity] += 1

    def end(self, member: Member) -> None:
        key = member.identity
        self._counts[key] -= 1
        assert self._counts[key] >= 0
        if not self._counts[key]:
            del self._counts[key]
            if (url := self._leaving.pop(key, None)) is not None:
                _say_removed(url)

    def _look(self) -> None:
        here = {member.identity: member.url for member in self._roster.members}
        left = {key: url for key, url in self._here.items() if key not in here}
        self._here = here
        self._leaving = {key: url for key, url in {**self._leaving, **left}.items() if key not in here}
        for key in left:
            if not self._counts[key]:
                _say_removed(self._leaving.pop(key))


class Claim:
    """The servers that one request counts on."""

    __slots__ = ("_context", "_generation", "_uses")

    def __init__(self, uses: Uses) -> None:
        self._uses = uses
        self._context: Member | None = None
        self._generation: Member | None = None

    def take(self, context: Member | None, generation: Member) -> None:
        """Count on these servers instead of those before."""
        self.drop_context()
        if context is not None:
            self._uses.begin(context)
            self._context = context
        self.take_generation(generation)

    def take_generation(self, member: Member) -> None:
        self.drop_generation()
        self._uses.begin(member)
        self._generation = member

    def drop_context(self) -> None:
        """What the context server holds has been taken over, or is not needed any more."""
        if self._context is not None:
            self._uses.end(self._context)
            self._context = None

    def drop_generation(self) -> None:
        """Another one will be asked."""
        if self._generation is not None:
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
