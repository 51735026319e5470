"""Servers that are there and fail again and again: a circuit breaker for each. Values and times; nothing waits here.

    closed --- `num_failures` of the last `num_legs` failed, within `window_s` ------> open
      ^                                                                             ^   |
      |                                                  a leg fails: open for      |   | `open_s` have passed,
      |                                                  twice as long as before    |   v and /health is well
      +--- a leg succeeds -------------------------------------------------------- half open

While it is open the server is in doubt, so nobody is routed to it. The last server that generates is never cut off:
half of its answers are better than none. One that is gone is in doubt after a single failure, without any of this.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import Literal

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import BreakerSpec
from trtdisagg.registry.members import Roster

State = Literal["closed", "open", "half_open"]

logger = logging.getLogger(__name__)


class Breaker:
    """Of one server.

    :ivar state: changed by what happens to its legs, and by `may_close`.
    """

    __slots__ = ("_failed", "_legs", "_open_s", "_rules", "_until", "state")

    def __init__(self, rules: BreakerSpec) -> None:
        self._rules = rules
        self._legs: deque[float] = deque(maxlen=rules.num_legs)
        """When each of the last ones failed; 0.0: it did not."""
        self._open_s = rules.open_s
        self._until = 0.0
        self.state: State = "closed"

    def is_due(self, now: float) -> bool:
        """A leg has failed: whether that was once too often."""
        self._legs.append(now)
        recent = sum(at > now - self._rules.window_s for at in self._legs)
        return self.state == "half_open" or (self.state == "closed" and recent >= self._rules.num_failures)

    def open(self, now: float) -> None:
        if self.state == "half_open":
            self._open_s = min(2 * self._open_s, self._rules.max_open_s)
        self.state, self._until = "open", now + self._open_s
        self._legs.clear()

    def may_be_probed(self, now: float) -> bool:
        return self.state != "open" or now >= self._until

    def probed(self) -> None:
        """The server says that it is well."""
        if self.state == "open":
            self.state = "half_open"

    def succeeded(self) -> None:
        """A leg was done."""
        self._legs.append(0.0)
        if self.state == "half_open":
            self.state, self._open_s = "closed", self._rules.open_s

    @property
    def is_clean(self) -> bool:
        """It knows of no failure."""
        return self.state == "closed" and not any(self._legs)


class Breakers:
    """Of all servers; one that has not failed lately has none."""

    def __init__(self, rules: BreakerSpec, roster: Roster) -> None:
        self._rules = rules
        self._roster = roster
        self._of: dict[str, Breaker] = {}
        """By identity."""
        roster.watch(self._forget_who_has_left)

    def failed(self, member: Member, now: float) -> None:
        """A leg has failed, by a server that is routed to."""
        breaker = self._of.setdefault(member.identity, Breaker(self._rules))
        if self._rules.num_failures and breaker.is_due(now) and not self._is_last(member):
            breaker.open(now)
            logger.warning("%s at %s fails again and again: no requests for a while", member.name, member.url)
            self._roster.doubt(member)

    def succeeded(self, member: Member) -> None:
        """A leg was done."""
        if not self._of:  # almost always
            return
        if (breaker := self._of.get(member.identity)) is not None:
            breaker.succeeded()
            if breaker.is_clean:
                del self._of[member.identity]

    def may_be_probed(self, member: Member, now: float) -> bool:
        """Whether it may be asked how it is, and trusted when it is well."""
        breaker = self._of.get(member.identity)
        return breaker is None or breaker.may_be_probed(now)

    def probed(self, member: Member) -> None:
        """It is well, and about to be trusted."""
        if (breaker := self._of.get(member.identity)) is not None:
            breaker.probed()

    def state(self, member: Member) -> State:
        breaker = self._of.get(member.identity)
        return "closed" if breaker is None else breaker.state

    def _is_last(self, member: Member) -> bool:
        return all(m == member for m in self._roster.snapshot.pools[member.model].generation)

    def _forget_who_has_left(self) -> None:
        if self._of:
            here = {member.identity for member in self._roster.members}
            self._of = {identity: breaker for identity, breaker in self._of.items() if identity in here}
