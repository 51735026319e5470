"""What else answers at the proxy's port: pages of rooms that the request path knows nothing of.

Each room adds its lines to `attached`: it enters what must run for it, and says which pages it answers.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

import msgspec
from aiohttp import web

from trtdisagg.protocol.spec import ProxySpec
from trtdisagg.proxy.http_server import Handler
from trtdisagg.proxy.readiness import cluster_info
from trtdisagg.registry.members import Roster

Pages = Mapping[tuple[str, str], Handler]
"""(method, path) -> who answers; a HEAD is answered as the GET. What goes wrong is raised as a TrtdisaggError."""

JSON = "application/json"


@contextlib.asynccontextmanager
async def attached(spec: ProxySpec, roster: Roster) -> AsyncIterator[Pages]:
    """Run what the spec asks for beside the request path, while the block runs."""

    async def info(_: web.BaseRequest) -> web.Response:
        return json_page(cluster_info(spec, roster))

    async with contextlib.AsyncExitStack():
        pages: dict[tuple[str, str], Handler] = {("GET", "/cluster_info"): info}
        yield pages


def json_page(value: object, status: int = 200) -> web.Response:
    """An answer in JSON."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type=JSON)
