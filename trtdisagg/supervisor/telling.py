"""Tells every proxy of this agent, and a registry, who may be routed to, and hears from them who is in use.

A proxy that finishes its work while its successor serves is told as long as it lives: its requests may still need to
be tried elsewhere.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine

import anyio

from trtdisagg.protocol.control import Member, Members, Told
from trtdisagg.registry.client import MembersClient
from trtdisagg.registry.registrar import Registrar
from trtdisagg.supervisor import events
from trtdisagg.supervisor.rundir import Place
from trtdisagg.supervisor.state import Holder

REGISTRY = "registry"
"""Its name among those who route to our servers."""


class Telling:
    """
    :param registrar: where the servers are registered as well; None: nowhere.
    :param on_event: called when somebody has taken a set over, or counts anew who is in use.
    :ivar others: members that the newest proxy knows from elsewhere.
    """

    def __init__(self, place: Place, registrar: Registrar | None, on_event: Callable[[events.Event], None]) -> None:
        self.others: list[Member] = []
        self._place = place
        self._registrar = registrar
        self._on_event = on_event
        self._members = Members(members=[])
        self._clients: dict[str, tuple[MembersClient, anyio.CancelScope]] = {}
        self._known: dict[str, Holder] = {}

    def update(self, members: Members) -> None:
        """Take a new set, of which the proxies are told at once."""
        if members != self._members:
            self._members = members
            for client, _ in self._clients.values():
                client.update(members.members, members.needs, members.coming)
            if self._registrar is not None:
                self._registrar.update(members.members)

    async def run(self) -> None:
        """Keep the servers registered until cancelled."""
        if self._registrar is not None:
            self._registrar.on_change = self._registry_changed
            await self._registrar.run()

    def add(self, incarnation: str) -> Callable[[], Coroutine[None, None, None]]:
        """Take a proxy in, which can be told to have ended from now on.

        :returns: the task that tells it until it is gone.
        """

        def told(members: Members, answer: Told) -> None:
            self._told(incarnation, members, answer)

        client = MembersClient(self._place.members_socket(incarnation), told)
        client.update(self._members.members, self._members.needs, self._members.coming)
        self._clients[incarnation] = client, anyio.CancelScope()
        return functools.partial(self._tell, incarnation)

    async def _tell(self, incarnation: str) -> None:
        client, scope = self._clients[incarnation]
        try:
            with scope:
                await client.run()
        finally:
            del self._clients[incarnation]
            self._known.pop(incarnation, None)

    def end(self, incarnation: str) -> None:
        """A proxy is gone."""
        if incarnation in self._clients:
            self._clients[incarnation][1].cancel()

    def _told(self, incarnation: str, members: Members, answer: Told) -> None:
        self.others = answer.others
        self._heard(incarnation, Holder(frozenset(m.incarnation for m in members.members), answer.in_use))

    def _registry_changed(self) -> None:
        assert self._registrar is not None
        self._heard(REGISTRY, Holder(self._registrar.held, self._registrar.uses))

    def _heard(self, name: str, holder: Holder) -> None:
        if holder != self._known.get(name):
            self._known[name] = holder
            at = time.monotonic()
            self._on_event(events.Told(at=at, holder=name, members=holder.members, in_use=dict(holder.in_use)))
