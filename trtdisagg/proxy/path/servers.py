"""The servers of one request: chosen when there are some with room, counted on from that moment, avoided once they
failed.

Which is best is known by routing, who waits for how long by admission; what they are asked is the relay's. A server
that leaves after it was chosen is asked all the same: it ends only when nothing counts on it (uses.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from trtdisagg.errors import UnavailableError
from trtdisagg.protocol.control import Member
from trtdisagg.proxy.door.visit import Visit
from trtdisagg.proxy.means import Means
from trtdisagg.proxy.path.admission import Chosen
from trtdisagg.proxy.path.context import FirstToken
from trtdisagg.proxy.path.failures import LegFailedError
from trtdisagg.proxy.path.request import Incoming
from trtdisagg.proxy.records.record import Record
from trtdisagg.proxy.routing.ask import Ask
from trtdisagg.proxy.routing.choose import Route, choose, choose_successor
from trtdisagg.proxy.routing.room import can_hold
from trtdisagg.registry.members import Snapshot


class Servers:
    """For a `with` block, behind which nothing counts on any of them.

    :param ask: what routing looks at of the request.
    :param visit: is told where it goes.
    """

    def __init__(self, means: Means, incoming: Incoming, ask: Ask, record: Record, visit: Visit) -> None:
        self._means = means
        self._incoming = incoming
        self._ask = ask
        self._record = record
        self._visit = visit
        self._failure: LegFailedError | None = None
        self.claim = means.uses.claim(ask)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.claim.__exit__(kind, error, trace)

    async def both(self, due: float) -> Route:
        """Choose a generation server and, where one is to compute the prompt, a context server.

        :param due: when the client has waited for too long, on the loop's clock; as in all of these.
        :raises TrtdisaggError: there are none.
        """
        route = await self._admit(self._choose, due)
        self._record.path, self._record.is_blind = route.path, route.is_blind
        self._visit.goes_to(route.context, route.generation)
        return route

    async def successor(self, due: float) -> Member:
        """Choose a generation server that goes on behind what there is.

        :raises UnavailableError: there is none; with the failure that made one necessary.
        """
        try:
            member = await self._admit(self._choose_successor, due, has_begun=True)
        except UnavailableError as e:
            raise UnavailableError(f"{self._failure}. {e.message}" if self._failure else e.message) from None
        self._visit.goes_on(member)
        return member

    async def large_enough(self, route: Route, first: FirstToken, due: float) -> Member:
        """The generation server that was chosen, or another one, now that it is known how long the prompt is.

        :raises ContextLengthError: there is none; the client has seen nothing yet.
        """
        assert route.context is not None
        if self._ask.is_exact or first.seam is None or can_hold(route.generation, route.context.max_seq_len or 0):
            return route.generation
        self._ask = replace(self._ask, num_prompt_tokens=first.num_prompt_tokens or 0, is_exact=True)
        is_enough = can_hold(route.generation, self._ask.least_tokens)
        return route.generation if is_enough else await self.successor(due)

    def failed(self, failure: LegFailedError) -> None:
        """Have another server asked from now on, if there is one."""
        self._failure = failure
        self._ask = replace(self._ask, avoid={*self._ask.avoid, failure.member.name})
        self.claim.drop_generation()

    async def _admit(
        self, choose: Callable[[Snapshot], Chosen | None], due: float, *, has_begun: bool = False
    ) -> Chosen:
        chosen = self._means.admission.at_once(choose)
        if chosen is None:
            chosen = await self._means.admission.admit(
                choose,
                model=self._incoming.model,
                due=min(due, self._incoming.due),
                arrived=self._record.arrived,
                priority=self._incoming.priority,
                has_begun=has_begun,
                may_refuse=not self._ask.avoid,
            )
        self._record.chosen = self._record.chosen or time.monotonic()
        return chosen

    def _choose(self, now: Snapshot) -> Route | None:
        """Both servers, and count on them."""
        route = choose(now, self._ask, self._means.view)
        if route is not None:
            self.claim.take(route.context, route.generation)
            if self._ask.chains:
                self._means.index.expect(self._ask, route.context, route.generation)
        return route

    def _choose_successor(self, now: Snapshot) -> Member:
        successor = choose_successor(now, self._ask, self._means.view)
        self.claim.take_generation(successor)
        return successor
