"""The routes of an engine, and the form that every error has on all of them."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from trtdisagg import __version__
from trtdisagg.engine.http import tokenizing
from trtdisagg.engine.http.kv_feed import KvFeeds
from trtdisagg.engine.http.legs import answer, json_response
from trtdisagg.engine.http.service import Service
from trtdisagg.errors import (
    AuthenticationError,
    BodyTimeoutError,
    BodyTooLargeError,
    HandoverError,
    RequestError,
    TrtdisaggError,
    UnavailableError,
)
from trtdisagg.net import join_address
from trtdisagg.protocol.answers import ModelCard, ModelList, encode_error
from trtdisagg.protocol.control import Member
from trtdisagg.protocol.handover import Release, unseal
from trtdisagg.protocol.request_times import RequestTimes, SteadyClock, SteadyClockOffset

log = logging.getLogger(__name__)

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(service: Service, *, secret: bytes, address: Callable[[], tuple[str, int]]) -> web.Application:
    """
    :param secret: what clients must know; empty: nothing.
    :param address: where the server listens, once it does.
    """
    routes = _Routes(service, secret, address)
    app = web.Application(middlewares=[routes.errors, routes.guard], client_max_size=service.spec.max_body_bytes)
    app.add_routes(
        [
            web.post("/v1/completions", routes.completions),
            web.post("/v1/chat/completions", routes.chat_completions),
            web.post("/tokenize", routes.tokenize),
            web.post("/detokenize", routes.detokenize),
            web.get("/v1/models", routes.models),
            web.get("/health", routes.health),
            web.get("/health_generate", routes.health_generate),
            web.get("/version", routes.version),
            web.get("/server_info", routes.server_info),
            web.get("/metrics", routes.metrics),
            web.get("/perf_metrics", routes.perf_metrics),
            web.get("/request_times", routes.request_times),
            web.get("/steady_clock_offset", routes.steady_clock),
            web.post("/steady_clock_offset", routes.set_steady_clock),
            web.get("/kv_cache_events", routes.kv_cache_events),
            web.post("/kv_cache_events", routes.kv_cache_events),
            web.get("/kv_events", routes.kv_events),
            web.post("/kv/release", routes.release),
        ]
    )
    app.on_shutdown.append(routes.feeds.end)
    return app


class _Routes:
    def __init__(self, service: Service, secret: bytes, address: Callable[[], tuple[str, int]]) -> None:
        self._service = service
        self._secret = secret
        self._address = address
        self._created = int(time.time())
        self.feeds = KvFeeds(service.spec)

    async def completions(self, request: web.Request) -> web.StreamResponse:
        return await answer(self._service, request, self._secret, chat=False)

    async def chat_completions(self, request: web.Request) -> web.StreamResponse:
        return await answer(self._service, request, self._secret, chat=True)

    async def tokenize(self, request: web.Request) -> web.Response:
        return await tokenizing.tokenize(self._service, request)

    async def detokenize(self, request: web.Request) -> web.Response:
        return await tokenizing.detokenize(self._service, request)

    async def models(self, _: web.Request) -> web.Response:
        card = ModelCard(id=self._service.spec.model, created=self._created)
        return json_response(msgspec.json.encode(ModelList(data=[card])))

    async def health(self, _: web.Request) -> web.Response:
        if reason := self._service.health():
            raise UnavailableError(reason)
        return json_response(b'{"status":"ok"}')

    async def health_generate(self, _: web.Request) -> web.Response:
        await self._service.canary()
        return json_response(b'{"status":"ok"}')

    async def version(self, _: web.Request) -> web.Response:
        return json_response(msgspec.json.encode({"version": __version__}))

    async def server_info(self, _: web.Request) -> web.Response:
        spec = self._service.spec
        host, port = self._address()
        member = Member(
            name=spec.name,
            role=self._service.role,
            model=spec.model,
            url=join_address(host, port),
            incarnation=spec.incarnation,
            wire_version=spec.wire_version,
            max_seq_len=spec.max_seq_len,
            num_blocks=spec.num_blocks_of_all,
            tokens_per_block=spec.tokens_per_block,
            max_batch_size=spec.max_batch_size_of_all,
        )
        return json_response(msgspec.json.encode(member))

    async def metrics(self, _: web.Request) -> web.Response:
        body = self._service.metrics.render(self._service.stats(), self._service.role)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def perf_metrics(self, _: web.Request) -> web.Response:
        """The times of the requests since it was asked last."""
        return json_response(msgspec.json.encode(self._service.perf.take()))

    async def request_times(self, request: web.Request) -> web.Response:
        """The times of one request, by its number or name."""
        spec, perf = self._service.spec, self._service.perf
        number, name = _one_of(request)
        times = RequestTimes(
            server=spec.name,
            incarnation=spec.incarnation,
            now=time.monotonic() + perf.offset_s,
            requests=perf.find(disagg_request_id=number, name=name),
        )
        return json_response(msgspec.json.encode(times))

    async def steady_clock(self, _: web.Request) -> web.Response:
        """What time it is here, for somebody who compares it with when it asked and was answered."""
        now_s = time.monotonic()
        return json_response(msgspec.json.encode(SteadyClock(receive_ts=now_s, transmit_ts=now_s)))

    async def set_steady_clock(self, request: web.Request) -> web.Response:
        """Tell times as another machine would from now on."""
        try:
            asked = msgspec.json.decode(await request.read(), type=SteadyClockOffset)
        except msgspec.DecodeError as e:
            raise RequestError(f'expected {{"offset": SECONDS}}: {e}', param="offset") from None
        self._service.perf.offset_s = asked.offset
        return json_response(b"{}")

    async def kv_cache_events(self, _: web.Request) -> web.Response:
        """What happened to KV blocks since it was asked last; TensorRT-LLM's proxy asks by POST."""
        return json_response(msgspec.json.encode(self._service.take_kv_events()))

    async def kv_events(self, request: web.Request) -> web.StreamResponse:
        """What can be found in the KV blocks, and what becomes of it, until the listener leaves."""
        return await self.feeds.answer(self._service.engine, request)

    async def release(self, request: web.Request) -> web.Response:
        """The blocks of a ticket are free: its generation leg was never asked for, or never will be."""
        try:
            ticket = unseal(msgspec.json.decode(await request.read(), type=Release).ticket, self._secret)
        except (msgspec.DecodeError, UnicodeDecodeError) as e:
            raise RequestError(f'The body is not {{"ticket": ...}}: {e}', param="ticket") from e
        except HandoverError as e:
            raise RequestError(f"In `ticket`: {e}", param="ticket") from e
        if ticket.incarnation != self._service.spec.incarnation:
            raise RequestError(
                f"The ticket is of another server, or another start of it: {ticket.server}", param="ticket"
            )
        self._service.release(ticket)
        return json_response(b"{}")

    @web.middleware
    async def guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Let in who knows the secret, with a body that is not too large."""
        if self._secret and request.path != "/health" and not self._knows_secret(request):
            raise AuthenticationError("The cluster's secret is missing or wrong: `Authorization: Bearer SECRET`")
        if (request.content_length or 0) > self._service.spec.max_body_bytes:
            raise _too_large(self._service.spec.max_body_bytes)
        return await handler(request)

    @web.middleware
    async def errors(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Give every error OpenAI's form. A fault of ours ends the request, not the server."""
        try:
            return await handler(request)
        except TrtdisaggError as e:
            return error_response(e, e.http_status)
        except web.HTTPRequestEntityTooLarge:
            return error_response(_too_large(self._service.spec.max_body_bytes), BodyTooLargeError.http_status)
        except web.HTTPException as e:
            error = RequestError(f"{request.method} {request.path}: {e.reason}")
            return error_response(error, e.status, allow=e.headers.get("Allow"))
        except Exception:
            log.exception("%s %s failed", request.method, request.path)
            return error_response(TrtdisaggError("Internal error; the server's log says more"), 500)

    def _knows_secret(self, request: web.Request) -> bool:
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        return hmac.compare_digest(given, b"Bearer " + self._secret)


def error_response(error: TrtdisaggError, status: int, *, allow: str | None = None) -> web.Response:
    """An error as an answer; those that pass say when to ask again."""
    headers = {"Allow": allow} if allow else {}
    if status in (429, 503):
        headers["Retry-After"] = "1"
    answer = web.Response(status=status, body=encode_error(error), content_type="application/json", headers=headers)
    if status == BodyTimeoutError.http_status:
        answer.force_close()  # the rest of the body may still come
    return answer


def _one_of(request: web.Request) -> tuple[int | None, str | None]:
    """Number or name of the request whose times are wanted."""
    [(key, value), *more] = [*request.query.items()] or [("", "")]
    if more or key not in ("disagg_request_id", "request_id") or not value:
        raise RequestError("One of `disagg_request_id=NUMBER` and `request_id=NAME` is needed", param=key or None)
    if key == "request_id":
        return None, value
    if not (value.isascii() and value.isdigit()):
        raise RequestError(f"`disagg_request_id` is {value!r}; it is a number", param=key)
    return int(value), None


def _too_large(max_body_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"The body is larger than {max_body_bytes} bytes")
