"""Tells every proxy of this agent, and a registry, who may be routed to, and hears from them who is in use.

A proxy that finishes its work while its successor serves is told as long as it lives: its requests may still need to
be tried elsewhere.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Coroutine

import anyio
from msgspec.structs import replace

from trtdisagg.protocol.control import Member, Members, Told
from trtdisagg.protocol.trace import Traces
from trtdisagg.registry.client import MembersClient, get_traces
from trtdisagg.registry.registrar import Registrar
from trtdisagg.supervisor import events
from trtdisagg.supervisor.load_table import LoadTable
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.server_name import parse_name
from trtdisagg.supervisor.state import Holder

REGISTRY = "registry"
"""Its name among those who route to our servers."""


class Telling:
    """
    :param loads: where several processes of a proxy say what they have in flight.
    :param registrar: where the servers are registered as well; None: nowhere.
    :param on_event: called when somebody has taken a set over, or counts anew who is in use.
    """

    def __init__(
        self,
        place: Place,
        loads: LoadTable,
        registrar: Registrar | None,
        on_event: Callable[[events.Event], None],
    ) -> None:
        self._others: dict[str, list[Member]] = {}
        """By incarnation of a proxy: members that it knows from elsewhere."""
        self._place = place
        self._loads = loads
        self._registrar = registrar
        self._on_event = on_event
        self._members = Members(members=[])
        self._clients: dict[str, tuple[MembersClient, anyio.CancelScope]] = {}
        self._known: dict[str, Holder] = {}
        self._told_last = self._members

    def update(self, members: Members) -> None:
        """Take a new set, of which the proxies are told at once."""
        if members != self._members:
            self._members = members
            self._tell_all()
            if self._registrar is not None:
                self._registrar.update(members.members)

    @property
    def others(self) -> list[Member]:
        """Members that proxies know from elsewhere."""
        return list({m.identity: m for members in self._others.values() for m in members}.values())

    def _tell_all(self) -> None:
        """What each proxy is told is the same, and told when it has changed."""
        self._loads.keep(
            [member.identity for member in (*self._members.members, *self.others)],
            {identity for holder in self._known.values() for identity in (*holder.members, *holder.in_use)},
        )
        workers = sorted(filter(self._loads.has, self._clients), key=_turn)
        sockets = [str(self._place.members_socket(incarnation)) for incarnation in workers]
        told = replace(self._members, workers=sockets, load_rows=dict(self._loads.rows))
        if told != self._told_last:
            self._told_last = told
            for client, _ in self._clients.values():
                client.take(told)

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
        client.take(self._told_last)
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
            self._others.pop(incarnation, None)
            self._tell_all()

    async def traces(self, query: str) -> Traces:
        """What all proxies say of requests, the newest first; one that does not answer is named.

        :param query: see `protocol/trace.py`.
        """
        answers: list[Traces] = []

        async def ask(incarnation: str) -> None:
            try:
                answers.append(await get_traces(self._place.members_socket(incarnation), query))
            except OSError as e:
                answers.append(Traces(missing=[f"{incarnation}: {e or type(e).__name__}"]))

        async with anyio.create_task_group() as tasks:
            for incarnation in self._clients:
                tasks.start_soon(ask, incarnation)
        traces = [trace for answer in answers for trace in answer.traces]
        missing = [name for answer in answers for name in answer.missing]
        return Traces(traces=sorted(traces, key=lambda trace: -trace.arrived), missing=missing)

    def end(self, incarnation: str) -> None:
        """A proxy is gone."""
        self._loads.leave(incarnation)
        if incarnation in self._clients:
            self._clients[incarnation][1].cancel()

    def _told(self, incarnation: str, members: Members, answer: Told) -> None:
        if incarnation in self._clients:
            self._others[incarnation] = answer.others
        self._heard(incarnation, Holder(frozenset(m.incarnation for m in members.members), answer.in_use))
        self._tell_all()

    def _registry_changed(self) -> None:
        assert self._registrar is not None
        self._heard(REGISTRY, Holder(self._registrar.held, self._registrar.uses))

    def _heard(self, name: str, holder: Holder) -> None:
        if holder != self._known.get(name):
            self._known[name] = holder
            at = time.monotonic()
            self._on_event(events.Told(at=at, holder=name, members=holder.members, in_use=dict(holder.in_use)))


def _turn(incarnation: str) -> tuple[int, int]:
    """The processes of a proxy in order, of one the newest incarnation first."""
    _, _, name_and_start = incarnation.partition(".")
    name, _, start = name_and_start.rpartition(".")
    return parse_name(name).number, -int(start)
