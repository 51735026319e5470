"""The proxy's routes: what each answers, and in which form it says no.

POST /v1/completions, /v1/chat/completions   admitted here, answered by a relay
GET  /v1/models /version /metrics
GET  /health /readyz                         200 once every model has what it needs
GET  /livez                                  200 while this process answers at all

Other rooms bring pages of their own (attached.py).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping

from aiohttp import web

from trtdisagg import __version__
from trtdisagg.errors import (
    BodyTimeoutError,
    BodyTooLargeError,
    DeadlineError,
    OverloadedError,
    RequestError,
    TrtdisaggError,
    UnavailableError,
)
from trtdisagg.protocol.answers import ModelCard, ModelList, encode_error
from trtdisagg.proxy.client_stream import ClientStream
from trtdisagg.proxy.http_server import Handler
from trtdisagg.proxy.ids import request_id
from trtdisagg.proxy.legs import RefusedError
from trtdisagg.proxy.means import Means
from trtdisagg.proxy.metrics import CLIENT_LEFT
from trtdisagg.proxy.pages import Pages, json_page
from trtdisagg.proxy.readiness import health
from trtdisagg.proxy.relay import Relay
from trtdisagg.proxy.request import Incoming, decode_incoming

COMPLETIONS = {"/v1/completions": False, "/v1/chat/completions": True}
"""Route -> is it chat."""
PASSED_ON = ("content-type", "retry-after")
"""Headers of a server's 4xx that the client gets, too."""
RETRY_AFTER_S = 1
BODY_TIMEOUT_S = 60.0
"""For a request body to come, where the deadline for the first token is not earlier."""
JSON = "application/json"

logger = logging.getLogger(__name__)


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

    def __init__(self, means: Means, pages: Pages) -> None:
        self._means = means
        self._loop = asyncio.get_running_loop()
        self._created = int(time.time())
        self._turn = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
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
            self._methods[path]["POST"] = self._complete
        for path, page in own.items():
            self._methods[path]["GET"] = _as_handler(page)
        for (method, path), handler in pages.items():
            self._methods[path][method] = handler

    async def drain(self) -> None:
        """Take no new requests and wait until those that run are answered."""
        self._draining = True
        await self._idle.wait()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request; whatever goes wrong is said in OpenAI's form."""
        methods = self._methods.get(_path(request))
        if methods is None:
            return _error(NotFoundError(f"There is no route {_path(request)[:200]}"))
        handler = methods.get("GET" if request.method == "HEAD" else request.method)
        if handler is None:
            allowed = [*sorted(methods), *(["HEAD"] if "GET" in methods else [])]
            error = WrongMethodError(f"{_path(request)} takes {' or '.join(sorted(methods))}, not {request.method}")
            return _error(error, {"Allow": ", ".join(allowed)})
        try:
            return await handler(request)
        except TrtdisaggError as e:
            return _error(e)

    # --- completions ------------------------------------------------------------------------------------------------

    async def _complete(self, request: web.BaseRequest) -> web.StreamResponse:
        started, path = self._loop.time(), _path(request)
        self._means.metrics.request_begins()
        self._idle.clear()
        id_ = request_id(request.headers.get("X-Request-Id"))
        incoming: Incoming | None = None
        status = CLIENT_LEFT
        try:
            self._admit()
            body = await self._read(request)
            async with self._means.deadlines.by(started + self._means.spec.first_token_timeout_s) as deadline:
                incoming = decode_incoming(body, chat=COMPLETIONS[path], request_id=id_)
                client = ClientStream(request, {"X-Request-Id": id_})
                self._turn += 1
                relay = Relay(self._means, incoming, client, turn=self._turn, started=started, deadline=deadline)
                response = await relay.run()
            status = response.status
        except ConnectionError:
            raise
        except Exception as e:  # noqa: BLE001 (a bug must be answered, too)
            response = _explain(e, id_)
            status = response.status
        finally:
            self._count(incoming, path, status, self._loop.time() - started)
        return response

    def _admit(self) -> None:
        if self._draining:
            raise UnavailableError("The proxy is about to end and takes no new requests")
        if self._means.metrics.num_in_flight > self._means.spec.max_queue_size:
            raise OverloadedError(f"{self._means.spec.max_queue_size} requests are in flight already; ask again later")

    async def _read(self, request: web.BaseRequest) -> bytes:
        max_body_bytes = self._means.spec.max_body_bytes
        too_large = BodyTooLargeError(f"The body is larger than {max_body_bytes} bytes")
        if (request.content_length or 0) > max_body_bytes:
            raise too_large
        if request.transport is not None and request.headers.get("Expect", "").lower() == "100-continue":
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        timeout_s = min(BODY_TIMEOUT_S, self._means.spec.first_token_timeout_s)
        try:
            async with self._means.deadlines.by(self._loop.time() + timeout_s):
                return await request.read()
        except web.HTTPRequestEntityTooLarge:
            raise too_large from None
        except TimeoutError:
            raise BodyTimeoutError(f"The body did not come within {timeout_s:g} s") from None

    def _count(self, incoming: Incoming | None, path: str, status: int, seconds: float) -> None:
        # A model nobody serves is no label: clients could make up any number of them.
        known = incoming is not None and incoming.model in self._means.roster.snapshot.pools
        self._means.metrics.request_ends(incoming.model if incoming and known else "", path, status, seconds)
        if self._means.metrics.num_in_flight == 0:
            self._idle.set()

    # --- pages ------------------------------------------------------------------------------------------------------

    def _models(self) -> web.Response:
        pools = self._means.roster.snapshot.pools
        cards = [ModelCard(id=m, created=self._created) for m, p in pools.items() if p.context or p.generation]
        return json_page(ModelList(data=cards))

    def _health(self) -> web.Response:
        status, body = health(self._means.spec, self._means.roster, self._loop.time(), draining=self._draining)
        return json_page(body, status)

    def _metrics(self) -> web.Response:
        page, content_type = self._means.metrics.page()
        return web.Response(body=page, headers={"Content-Type": content_type})


def _path(request: web.BaseRequest) -> str:
    return request.raw_path.partition("?")[0]


def _as_handler(page: Callable[[], web.Response]) -> Handler:
    async def handler(_: web.BaseRequest) -> web.Response:
        return page()

    return handler


def _explain(error: Exception, id_: str) -> web.Response:
    """What a client is told of an error that came before the first byte of its answer."""
    headers = {"X-Request-Id": id_}
    match error:
        case TrtdisaggError():
            return _error(error, headers)
        case RefusedError():
            kept = {name: error.headers[name] for name in PASSED_ON if name in error.headers}
            return web.Response(status=error.status, body=error.body, headers={**kept, **headers})
        case TimeoutError():
            return _error(DeadlineError("There was no first token in time"), headers)
        case web.RequestPayloadError():
            return _error(RequestError(f"The body cannot be read: {error}"), headers)
    logger.error("%s: a bug in the proxy", id_, exc_info=error)
    return _error(TrtdisaggError("Internal error; the proxy's log has more under this request's id"), headers)


def _error(error: TrtdisaggError, headers: Mapping[str, str] | None = None) -> web.Response:
    told = dict(headers or {})
    if error.http_status in (429, 503):
        told["Retry-After"] = str(RETRY_AFTER_S)
    return web.Response(status=error.http_status, body=encode_error(error), content_type=JSON, headers=told)
