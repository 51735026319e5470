"""This process among those that make up its proxy: what it shares with them, and the socket where it is told and asked.

agent    -> PUT /members       who may be routed to, who the others are, whose row is which in the load file
            GET /traces        what became of requests (protocol/trace.py)
others   -> what `worker_room` answers them
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import msgspec
from aiohttp import web

from trtdisagg.protocol.control import Members
from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.proxy.http.client_connection import Handler
from trtdisagg.proxy.http.pages import Pages, json_page
from trtdisagg.proxy.means import Means
from trtdisagg.proxy.members.members_door import MembersPage, open_members_door
from trtdisagg.proxy.members.shared_loads import SharedLoads
from trtdisagg.proxy.records.timelines import Timelines
from trtdisagg.proxy.workers.fellows import Fellows
from trtdisagg.proxy.workers.worker_room import WorkerRoom

USES = "/uses"


class Workers:
    """
    :ivar loads: what the others have in flight; None: there are no others.
    :ivar client_pages: what clients are answered by all together.
    :raises StartupError: the load file cannot be used.
    """

    def __init__(self, spec: ProxySpec) -> None:
        self._socket = spec.members_socket
        self._worker = spec.worker
        self.fellows = Fellows(self._socket)
        self._pages: dict[tuple[str, str], Handler] = {}
        """Answered at the members socket."""
        self._means: Means | None = None
        self.loads = SharedLoads(spec.load_file, spec.load_column) if spec.load_file is not None else None
        self.client_pages: Pages = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.loads is not None:
            self.loads.close()

    @property
    def are_several(self) -> bool:
        return self.loads is not None

    def answer(self, pages: Pages) -> None:
        """Pages for the other processes."""
        self._pages.update(pages)

    async def in_use(self) -> dict[str, int]:
        """Requests that count on each server, by incarnation, over all processes. One that some process may still route
        to counts at least one there."""
        summed = self._own_uses()
        for answer in (await self.fellows.ask_all("GET", USES)).values():
            for identity, number in msgspec.json.decode(answer or b"{}", type=dict[str, int]).items():
                summed[identity] = summed.get(identity, 0) + number
        return summed

    def _own_uses(self) -> dict[str, int]:
        assert self._means is not None
        listed = dict.fromkeys((m.identity for m in self._means.roster.members), 1) if self.are_several else {}
        return {**listed, **self._means.uses.in_use()}

    @contextlib.asynccontextmanager
    async def meeting(self, means: Means) -> AsyncIterator[None]:
        """Be told and asked while the block runs; without an agent, nobody comes.

        :raises StartupError: when the socket cannot be made.
        """
        self._means = means
        if self._socket is None:
            yield
            return
        timelines = Timelines(means.legs.pool, means.records, means.readers.recent, self._worker)
        self.answer(
            {
                ("PUT", "/members"): MembersPage(means.roster, means.uses, self._told).put,
                ("GET", "/traces"): timelines.page,
            }
        )
        if self.loads is None:
            async with open_members_door(self._socket, self._pages):
                yield
            return
        room = WorkerRoom(self._socket, self.fellows, means.metrics, means.perf)
        self.client_pages = room.client_pages
        self.answer({**room.fellow_pages, ("GET", USES): self._uses_page})
        try:
            async with open_members_door(self._socket, self._pages):
                yield
        finally:
            room.end()

    async def _uses_page(self, _: web.BaseRequest) -> web.Response:
        return json_page(self._own_uses())

    def _told(self, members: Members) -> None:
        self.fellows.take(members.workers)
        if self.loads is not None:
            self.loads.take_rows(members.load_rows)
