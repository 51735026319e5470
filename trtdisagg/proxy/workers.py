"""This process among those that make up its proxy: what it shares with them, and the socket where it is told and asked.

agent    -> PUT /members       who may be routed to, who the others are, whose row is which in the load file
            GET /traces        what became of requests (protocol/trace.py)
others   -> what `worker_room` answers them
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from trtdisagg.protocol.control import Members
from trtdisagg.protocol.spec import ProxySpec
from trtdisagg.proxy.fellows import Fellows
from trtdisagg.proxy.means import Means
from trtdisagg.proxy.members_door import MembersPage, open_members_door
from trtdisagg.proxy.pages import Pages
from trtdisagg.proxy.shared_loads import SharedLoads
from trtdisagg.proxy.timelines import Timelines
from trtdisagg.proxy.worker_room import WorkerRoom


class Workers:
    """
    :ivar loads: what the others have in flight; None: there are no others.
    :ivar client_pages: what clients are answered by all together.
    :raises StartupError: the load file cannot be used.
    """

    def __init__(self, spec: ProxySpec) -> None:
        self._socket = spec.members_socket
        self._worker = spec.worker
        self._fellows = Fellows(self._socket)
        self.loads = SharedLoads(spec.load_file, spec.load_column) if spec.load_file is not None else None
        self.client_pages: Pages = {}

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        if self.loads is not None:
            self.loads.close()

    @contextlib.asynccontextmanager
    async def meeting(self, means: Means) -> AsyncIterator[None]:
        """Be told and asked while the block runs; without an agent, nobody comes.

        :raises StartupError: when the socket cannot be made.
        """
        if self._socket is None:
            yield
            return
        timelines = Timelines(means.legs.pool, means.records, means.readers.recent, self._worker)
        pages: Pages = {
            ("PUT", "/members"): MembersPage(means.roster, means.uses, self._told).put,
            ("GET", "/traces"): timelines.page,
        }
        if self.loads is None:
            async with open_members_door(self._socket, pages):
                yield
            return
        room = WorkerRoom(self._socket, self._fellows, means.metrics, means.perf)
        self.client_pages = room.client_pages
        try:
            async with open_members_door(self._socket, {**pages, **room.fellow_pages}):
                yield
        finally:
            room.end()

    def _told(self, members: Members) -> None:
        self._fellows.take(members.workers)
        if self.loads is not None:
            self.loads.take_rows(members.load_rows)
