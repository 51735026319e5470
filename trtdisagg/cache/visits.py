"""The context servers that we are connected to, one connection for each incarnation.

meet -> connecting -> connected ... lost -> closed, and the next `meet` connects anew
             gone ------------------^              gone: never again
"""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple

from trtdisagg.cache.connecting import Connector
from trtdisagg.cache.greeting import CONNECT_TIMEOUT_S
from trtdisagg.cache.peers import Peer
from trtdisagg.cache.waiting import wait_out
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.spec import PeerAddress

log = logging.getLogger(__name__)


class Visit(NamedTuple):
    """A peer's place among `Visits`, from the first time it is asked for until it is closed."""

    opened: asyncio.Future[Peer]
    task: asyncio.Task[None]


class Visits:
    """All peers of a server.

    :param tasks: owns a task per peer; all have ended some time after `stop`.
    """

    def __init__(self, connector: Connector, tasks: asyncio.TaskGroup) -> None:
        self._connector = connector
        self._tasks = tasks
        self._visits: dict[str, Visit] = {}
        """By incarnation."""
        self._gone: set[str] = set()
        """Incarnations that have ended: a ticket of one may come late."""
        self._is_stopped = False

    @property
    def peers(self) -> list[Peer]:
        """Those that are connected, or were until a moment ago."""
        opened = (visit.opened for visit in self._visits.values())
        return [peer.result() for peer in opened if peer.done() and not peer.exception()]

    async def meet(self, address: PeerAddress) -> Peer:
        """The peer with this address: connected already, or now.

        :raises HandoverError: when it cannot be reached, is not the incarnation meant, or its KV does not fit ours.
        """
        while not self._is_stopped:
            if address.incarnation in self._gone:
                raise HandoverError(f"{address.server} ({address.incarnation}) has ended")
            visit = self._visits.get(address.incarnation) or self._visit(address)
            peer = await asyncio.shield(visit.opened)
            if peer.lost is None:
                return peer
            # The next connection must not meet what the last one has not yet given back.
            _, pending = await asyncio.wait([visit.task], timeout=CONNECT_TIMEOUT_S)
            if pending:
                raise HandoverError(f"{address.server}: a lost connection is not closed yet")
        raise HandoverError("the server ends")

    def gone(self, incarnation: str) -> None:
        """A server has ended: what is claimed of it fails now."""
        self._gone.add(incarnation)
        if visit := self._visits.get(incarnation):
            if not visit.opened.done():
                visit.opened.set_exception(HandoverError(f"{incarnation} has ended"))
                visit.task.cancel()
            elif not visit.opened.exception():
                visit.opened.result().give_up("it has ended")

    def stop(self) -> None:
        """Ask the peers' tasks to end; there are none any more."""
        self._is_stopped = True
        for visit in self._visits.values():
            visit.task.cancel()

    def _visit(self, address: PeerAddress) -> Visit:
        opened: asyncio.Future[Peer] = asyncio.get_running_loop().create_future()
        opened.add_done_callback(asyncio.Future.exception)  # seen, also when all who waited are gone
        visit = Visit(opened, self._tasks.create_task(self._attend(address, opened)))
        visit.task.add_done_callback(lambda _: self._forget(address, opened))  # also of one that never began
        self._visits[address.incarnation] = visit
        return visit

    async def _attend(self, address: PeerAddress, opened: asyncio.Future[Peer]) -> None:
        """The life of one peer."""
        try:
            peer = await self._connector.connect(address)
        except HandoverError as e:
            opened.set_exception(e)
            return
        except Exception as e:  # a fault of ours, or an address that is none: no reason to end
            log.exception("%s was not met", address.server)
            opened.set_exception(HandoverError(f"{address.server} was not met: {type(e).__name__}: {e}"))
            return
        try:
            if not opened.done():  # it may have ended meanwhile
                opened.set_result(peer)
                await peer.run()
                log.info("no more KV from %s", peer.lost)
        finally:
            await wait_out(asyncio.ensure_future(peer.close()))

    def _forget(self, address: PeerAddress, opened: asyncio.Future[Peer]) -> None:
        del self._visits[address.incarnation]
        if not opened.done():
            opened.set_exception(HandoverError("the server ends"))
