"""GET /dashboard, a page that shows the cluster live, and GET /dashboard/events, the server-sent events it lives on.

The page is one file without anything from elsewhere, and its policy allows nothing else: no other script or style than
its own, no connection but back to this proxy. It can only look.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from trtdisagg.proxy.dashboard_feed import DashboardFeed
from trtdisagg.proxy.door.visit import REQUEST_ID, Visit
from trtdisagg.proxy.http.pages import Pages

_PAGE = Path(__file__).with_name("dashboard.html")
_RETRY_MS = 1000
"""After which a browser that lost the stream asks again."""


@contextlib.asynccontextmanager
async def open_dashboard(control_socket: str | None) -> AsyncIterator[Pages]:
    """The pages, while the block runs.

    :param control_socket: of the agent that knows the state; None: the page says that there is none.
    """
    feed = DashboardFeed(control_socket)
    html = _PAGE.read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": _policy(html),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    async def page(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(text=html, content_type="text/html", charset="utf-8", headers=headers)

    async def events(request: web.BaseRequest) -> web.StreamResponse:
        return await _send(request, feed)

    async with feed.running():
        yield {("GET", "/dashboard"): page, ("GET", "/dashboard/events"): events}


async def _send(request: web.BaseRequest, feed: DashboardFeed) -> web.StreamResponse:
    """Send every state until the browser leaves, which cancels this."""
    visit = Visit(request.headers.get(REQUEST_ID))
    headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    answer = web.StreamResponse(headers={**headers, **visit.headers()})
    await answer.prepare(request)
    if request.method == "HEAD":
        return answer
    with contextlib.suppress(ConnectionError):
        await answer.write(f"retry: {_RETRY_MS}\n\n".encode())
        async with contextlib.aclosing(feed.watch()) as states:
            async for state in states:
                await answer.write(b"data: " + state + b"\n\n")
    return answer


def _policy(html: str) -> str:
    """What the page may do: run and wear what is written in it, and talk to where it came from."""
    allowed = {tag: _hashes(html, tag) for tag in ("script", "style")}
    return (
        f"default-src 'none'; script-src {allowed['script']}; style-src {allowed['style']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hashes(html: str, tag: str) -> str:
    contents = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents]
    return " ".join(f"'sha256-{digest}'" for digest in digests)
