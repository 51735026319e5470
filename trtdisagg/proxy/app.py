"""The proxy's routes: who answers each, and what every answer bears.

POST /v1/completions, /v1/chat/completions   completions.py
POST /tokenize, /detokenize                  texts/pages.py
GET  /v1/models, /v1/models/ID, /version, /perf_metrics
GET  /metrics, /prometheus/metrics           the latter as TensorRT-LLM has it
GET  /openapi.json                           openapi.py
GET  /health, /readyz                        200 once every model has what it needs
GET  /livez, /ping                           200 while this process answers at all
OPTIONS, HEAD                                of any of them

Other rooms bring pages of their own (attached.py).
"""

from __future__ import annotations

import asyncio
import time
import urllib.parse
from collections.abc import Awaitable

import msgspec
from aiohttp import web

from trtdisagg import __version__
from trtdisagg.errors import ModelNotFoundError, RequestError, TrtdisaggError
from trtdisagg.protocol.answers import ModelCard, ModelList
from trtdisagg.proxy.completions import COMPLETIONS, Completions
from trtdisagg.proxy.door.entrance import OPEN, Entrance
from trtdisagg.proxy.door.keys import Client
from trtdisagg.proxy.door.openapi import document
from trtdisagg.proxy.door.refusals import as_answer
from trtdisagg.proxy.door.routes import SHOWN_CHARS, Routes, Visited
from trtdisagg.proxy.door.visit import REQUEST_ID, Visit
from trtdisagg.proxy.http.client_connection import Handler
from trtdisagg.proxy.http.pages import JSON, Pages, json_page
from trtdisagg.proxy.http.whole_answer import AnyAnswer
from trtdisagg.proxy.means import Means
from trtdisagg.proxy.members.readiness import health
from trtdisagg.proxy.texts.pages import TextPages

MODELS = "/v1/models"


class EncodingError(RequestError):
    """The body is compressed: how large it really is would show only when it is too late."""

    http_status = 415
    code = "unsupported_encoding"


class App:
    """Answers every request of a client.

    :param pages: of other rooms.
    :param entrance: who may come in; of itself everybody.
    """

    def __init__(self, means: Means, completions: Completions, pages: Pages, entrance: Entrance = OPEN) -> None:
        self._means = means
        self._guard = entrance.guard
        self._cors = entrance.cors
        self._document = b""
        """What can be asked, once somebody wants to know."""
        self._loop = asyncio.get_running_loop()
        self._created = int(time.time())
        self.is_draining = False
        """Said by /health."""
        self._routes: Routes[Visited] = Routes()
        for path in COMPLETIONS:
            self._routes.add("POST", path, completions.handle)
        for (method, path), handler in {**self._own_pages(), **TextPages(means).pages(), **pages}.items():
            self._routes.add(method, path, _unvisited(handler))

    def _own_pages(self) -> Pages:
        pages: dict[str, Handler] = {
            MODELS: self._models,
            f"{MODELS}/": self._model,
            "/version": self._version,
            "/openapi.json": self._openapi,
            "/perf_metrics": self._means.perf.page,
            **dict.fromkeys(("/metrics", "/prometheus/metrics"), self._metrics),
            **dict.fromkeys(("/health", "/readyz"), self._health),
            **dict.fromkeys(("/livez", "/ping"), self._alive),
        }
        return {("GET", path): handler for path, handler in pages.items()}

    async def handle(self, request: web.BaseRequest) -> AnyAnswer:
        """Answer a request; whatever goes wrong is said in OpenAI's form."""
        visit = Visit(request.headers.get(REQUEST_ID))
        if self._cors is not None:
            visit.bears(self._cors.headers(request.headers.get("Origin")))
        response: AnyAnswer
        try:
            response = await self._answer(request, visit)
        except ConnectionError:
            raise
        except Exception as e:  # noqa: BLE001 (a bug must be answered, too)
            response = as_answer(e, visit.request_id)
        if not response.prepared:
            response.headers.update(visit.headers())
        return response

    def _answer(self, request: web.BaseRequest, visit: Visit) -> Awaitable[AnyAnswer]:
        path = request.raw_path.partition("?")[0]
        if request.method == "OPTIONS":
            return self._options(request, path)
        handler = self._routes.find(request.method, path)
        try:
            _refuse_compressed(request)
            client = self._let_in(request, path, visit)
        except TrtdisaggError as e:
            if path in COMPLETIONS:
                self._note_refusal(path, visit, e)
            raise
        answer = handler(request, visit)
        return answer if client is None else _on_account(client, answer)

    async def _options(self, request: web.BaseRequest, path: str) -> web.Response:
        allowed = self._routes.allowed(path)
        headers = {"Allow": ", ".join(allowed)}
        if self._cors is not None and "Access-Control-Request-Method" in request.headers:
            asked = request.headers.get("Access-Control-Request-Headers")
            headers |= self._cors.preflight(request.headers.get("Origin"), allowed, asked)
        return web.Response(status=204, headers=headers)

    def _let_in(self, request: web.BaseRequest, path: str, visit: Visit) -> Client | None:
        """
        :returns: on whose account the request runs; None: on nobody's.
        :raises AuthenticationError, RateLimitError: who asks may not, or not now.
        """
        if self._guard is None:
            return None
        client = self._guard.let_in(path, request.headers.get("Authorization"))
        if client is None:
            return None
        visit.client = client.name
        if request.method != "POST":
            return None
        now = self._loop.time()
        client.begin(now)
        visit.bears(client.allowance.headers(now))
        return client

    def _note_refusal(self, path: str, visit: Visit, error: TrtdisaggError) -> None:
        record = self._means.records.begin(visit.request_id, path)
        record.client, record.status, record.error = visit.client, error.http_status, error.code or error.type
        self._means.records.add(record)

    # --- pages ------------------------------------------------------------------------------------------------------

    async def _models(self, _: web.BaseRequest) -> web.Response:
        return json_page(ModelList(data=[self._card(name) for name in self._served()]))

    async def _model(self, request: web.BaseRequest) -> web.Response:
        name = urllib.parse.unquote(request.raw_path.partition("?")[0].removeprefix(f"{MODELS}/"))
        if name not in self._served():
            raise ModelNotFoundError(f"No server has the model {name[:SHOWN_CHARS]!r}", param="model")
        return json_page(self._card(name))

    def _served(self) -> list[str]:
        return [name for name, p in self._means.roster.snapshot.pools.items() if p.context or p.generation]

    def _card(self, name: str) -> ModelCard:
        return ModelCard(id=name, created=self._created)

    async def _version(self, _: web.BaseRequest) -> web.Response:
        return json_page({"version": __version__})

    async def _openapi(self, _: web.BaseRequest) -> web.Response:
        if not self._document:
            described = document(self._routes, has_keys=self._guard is not None)
            self._document = msgspec.json.encode(described)
        return web.Response(body=self._document, content_type=JSON)

    async def _alive(self, _: web.BaseRequest) -> web.Response:
        return json_page({"status": "ok"})

    async def _health(self, _: web.BaseRequest) -> web.Response:
        status, body = health(self._means.spec, self._means.roster, self._loop.time(), draining=self.is_draining)
        return json_page(body, status)

    async def _metrics(self, _: web.BaseRequest) -> web.Response:
        page, content_type = self._means.metrics.page()
        return web.Response(body=page, headers={"Content-Type": content_type})


def _refuse_compressed(request: web.BaseRequest) -> None:
    encoding = request.headers.get("Content-Encoding")
    if encoding is not None and encoding.lower() != "identity":
        raise EncodingError(f"The body has Content-Encoding {encoding[:SHOWN_CHARS]!r}; bodies are taken as they are")


async def _on_account(client: Client, answer: Awaitable[AnyAnswer]) -> AnyAnswer:
    try:
        return await answer
    finally:
        client.end()


def _unvisited(handler: Handler) -> Visited:
    def visited(request: web.BaseRequest, _: Visit) -> Awaitable[AnyAnswer]:
        return handler(request)

    return visited
