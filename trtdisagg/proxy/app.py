"""The proxy's routes: who answers each, and in which form it is said that nobody does.

POST /v1/completions, /v1/chat/completions   completions.py
GET  /v1/models /version /metrics /perf_metrics
GET  /health /readyz                         200 once every model has what it needs
GET  /livez                                  200 while this process answers at all

Other rooms bring pages of their own (attached.py).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable

from aiohttp import web

from trtdisagg import __version__
from trtdisagg.errors import RequestError, TrtdisaggError
from trtdisagg.protocol.answers import ModelCard, ModelList
from trtdisagg.proxy.completions import COMPLETIONS, Completions
from trtdisagg.proxy.http_server import Handler
from trtdisagg.proxy.means import Means
from trtdisagg.proxy.pages import Pages, json_page
from trtdisagg.proxy.readiness import health
from trtdisagg.proxy.refusals import as_page


class NotFoundError(RequestError):
    """No such route."""

    http_status = 404
    code = "not_found"


class WrongMethodError(RequestError):
    """The route is there, the method is not."""

    http_status = 405
    code = "method_not_allowed"


class App:
    """Answers every request of a client.

    :param pages: of other rooms.
    """

    def __init__(self, means: Means, completions: Completions, pages: Pages) -> None:
        self._means = means
        self._loop = asyncio.get_running_loop()
        self._created = int(time.time())
        self.is_draining = False
        """Said by /health."""
        own = {
            "/v1/models": self._models,
            "/health": self._health,
            "/readyz": self._health,
            "/livez": lambda: json_page({"status": "ok"}),
            "/version": lambda: json_page({"version": __version__}),
            "/metrics": self._metrics,
        }
        self._methods: defaultdict[str, dict[str, Handler]] = defaultdict(dict)
        """By path."""
        for path in COMPLETIONS:
            self._methods[path]["POST"] = completions.handle
        for path, page in own.items():
            self._methods[path]["GET"] = _as_handler(page)
        self._methods["/perf_metrics"]["GET"] = means.perf.page
        for (method, path), handler in pages.items():
            self._methods[path][method] = handler

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; whatever goes wrong is said in OpenAI's form."""
        path = request.raw_path.partition("?")[0]
        methods = self._methods.get(path)
        if methods is None:
            return as_page(NotFoundError(f"There is no route {path[:200]}"))
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = [*sorted(methods), *(["HEAD"] if "GET" in methods else [])]
            error = WrongMethodError(f"{path} takes {' or '.join(sorted(methods))}, not {request.method}")
            return as_page(error, {"Allow": ", ".join(allowed)})
        try:
            return await handler(request)
        except TrtdisaggError as e:
            return as_page(e)

    def _models(self) -> web.Response:
        pools = self._means.roster.snapshot.pools
        cards = [ModelCard(id=m, created=self._created) for m, p in pools.items() if p.context or p.generation]
        return json_page(ModelList(data=cards))

    def _health(self) -> web.Response:
        status, body = health(self._means.spec, self._means.roster, self._loop.time(), draining=self.is_draining)
        return json_page(body, status)

    def _metrics(self) -> web.Response:
        page, content_type = self._means.metrics.page()
        return web.Response(body=page, headers={"Content-Type": content_type})


def _as_handler(page: Callable[[], web.Response]) -> Handler:
    async def handler(_: web.BaseRequest) -> web.Response:
        return page()

    return handler
