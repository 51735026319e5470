"""What a page of another room is."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from aiohttp import web

from trtdisagg.proxy.http.client_connection import Handler

Pages = Mapping[tuple[str, str], Handler]
"""(method, path) -> who answers; a HEAD is answered as the GET. What goes wrong is raised as a TrtdisaggError."""

JSON = "application/json"


def json_page(value: object, status: int = 200) -> web.Response:
    """An answer in JSON."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type=JSON)
