"""What else answers at the proxy's port: pages of rooms that the request path knows nothing of.

Each room adds its lines to `attached`: it enters what must run for it, and says which pages it answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from aiohttp import web

from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.proxy.dashboard import open_dashboard
from trtdisagg.proxy.http.client_connection import Handler
from trtdisagg.proxy.http.pages import Pages, json_page
from trtdisagg.proxy.http.pool import Pool
from trtdisagg.proxy.members.readiness import cluster_info
from trtdisagg.proxy.members.registry_room import open_registry
from trtdisagg.proxy.records import targets
from trtdisagg.proxy.workers.workers import Workers
from trtdisagg.registry.members import Roster


@contextlib.asynccontextmanager
async def attached(
    spec: ProxySpec, roster: Roster, pool: Pool, workers: Workers, *, secret: str | None
) -> AsyncIterator[Pages]:
    """Run what the spec asks for beside the request path, while the block runs.

    :param workers: the other processes of this proxy.
    """

    async def info(_: web.BaseRequest) -> web.Response:
        return json_page(cluster_info(spec, roster))

    async def to_be_read(_: web.BaseRequest) -> web.Response:
        return json_page(targets.targets(roster.members, spec.cluster))

    async with contextlib.AsyncExitStack() as stack:
        pages: dict[tuple[str, str], Handler] = {("GET", "/cluster_info"): info, ("GET", targets.PATH): to_be_read}
        pages |= await stack.enter_async_context(open_registry(spec, roster, pool, workers, secret=secret))
        pages |= await stack.enter_async_context(open_dashboard(spec.control_socket))
        yield pages
