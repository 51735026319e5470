"""What a fake engine answers over HTTP: the routes of an engine, and those for tests (see engine.py)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import msgspec
from aiohttp import web
from fakes import bodies
from fakes.bodies import Job
from fakes.tickets import Tickets

from trtdisagg import __version__
from trtdisagg.errors import AuthenticationError, OverloadedError, RequestError, TrtdisaggError, UnavailableError
from trtdisagg.protocol.answers import ModelCard, ModelList, encode_error
from trtdisagg.protocol.control import Member
from trtdisagg.protocol.handover import unseal
from trtdisagg.protocol.spec import EngineSpec


@dataclasses.dataclass
class Counters:
    """What happened to legs; all only grow, but `running` and `held`."""

    context: int = 0
    generation: int = 0
    aggregated: int = 0
    refused: int = 0
    running: int = 0
    cancelled: int = 0
    finished: int = 0
    tokens: int = 0
    fetched: int = 0
    """Handovers taken over by ticket."""
    recomputed: int = 0
    """Generation legs without a ticket: the prefix had to be computed."""
    held: int = 0
    expired: int = 0


class Server:
    """The HTTP side of one fake engine.

    :param flags: how to misbehave.
    """

    def __init__(self, spec: EngineSpec, flags: argparse.Namespace) -> None:
        self.spec = spec
        self.flags = flags
        self.counters = Counters()
        self.last_bodies: dict[str, msgspec.Raw] = {}
        self.last_headers: dict[str, dict[str, str]] = {}
        self.grandchild: int | None = None
        self.port = spec.port
        self.ready = False
        self.draining = False
        self.idle = asyncio.Event()
        """Nothing runs and no ticket is held."""
        self.idle.set()
        self._changed = asyncio.Event()
        self._may_generate = asyncio.Event()
        if not flags.hold_generation:
            self._may_generate.set()
        self._request_ids = itertools.count(1)
        self._secret = Path(spec.secret_file).read_text().strip() if spec.secret_file else ""
        self.tickets = Tickets(spec, self._secret.encode(), self._expired)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_errors], client_max_size=self.spec.max_body_bytes)
        app.add_routes(
            [
                web.post("/v1/completions", lambda request: self._leg(request, chat=False)),
                web.post("/v1/chat/completions", lambda request: self._leg(request, chat=True)),
                web.get("/v1/models", self._models),
                web.get("/health", self._health),
                web.get("/version", self._version),
                web.get("/fake/state", self._state),
                web.get("/fake/wait", self._wait),
                web.post("/fake/hold", self._hold),
                web.post("/fake/go", self._go),
                web.post("/fake/release", self._release),
            ]
        )
        if not self.flags.foreign:
            app.add_routes([web.get("/server_info", self._server_info)])
        return app

    async def _models(self, request: web.Request) -> web.Response:
        return _json(ModelList(data=[ModelCard(id=self.spec.model, created=1)]))

    async def _health(self, request: web.Request) -> web.Response:
        if not self.ready or self.draining:
            raise UnavailableError("not ready")
        return web.Response(text="ok")

    async def _version(self, request: web.Request) -> web.Response:
        return _json({"version": __version__})

    async def _server_info(self, request: web.Request) -> web.Response:
        spec = self.spec
        member = Member(
            name=spec.name,
            role=spec.role,
            model=spec.model,
            url=f"{spec.host}:{self.port}",
            incarnation=spec.incarnation,
            wire_version=spec.wire_version,
            max_seq_len=spec.max_seq_len,
            num_blocks=spec.num_blocks,
            tokens_per_block=spec.tokens_per_block,
        )
        return _json(member)

    async def _state(self, request: web.Request) -> web.Response:
        state = {
            **dataclasses.asdict(self.counters),
            "held_tickets": sorted(self.tickets.held),
            "bodies": self.last_bodies,
            "headers": self.last_headers,
            "grandchild": self.grandchild,
            "pid": os.getpid(),
        }
        return _json(state)

    async def _wait(self, request: web.Request) -> web.Response:
        name, at_least = request.query["name"], int(request.query.get("at_least", "1"))
        try:
            async with asyncio.timeout(20):
                while getattr(self.counters, name) < at_least:
                    await self._changed.wait()
        except TimeoutError:
            return web.Response(status=504, text=f"{name} is {getattr(self.counters, name)}, not {at_least}")
        return await self._state(request)

    async def _hold(self, request: web.Request) -> web.Response:
        self._may_generate.clear()
        return web.Response()

    async def _go(self, request: web.Request) -> web.Response:
        self._may_generate.set()
        return web.Response()

    async def _release(self, request: web.Request) -> web.Response:
        released = self.tickets.drop((await request.json())["request_id"])
        self._tell_change()
        return web.Response(status=200 if released else 410)

    # --- legs -------------------------------------------------------------------------------------------------------

    async def _leg(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        self._admit(request)
        body = await request.read()
        job = bodies.decode_job(body, self.spec, chat=chat)
        leg = {"context_only": "context", "generation_only": "generation"}.get(job.params.request_type, "aggregated")
        self.last_bodies[leg] = msgspec.Raw(body)
        self.last_headers[leg] = dict(request.headers)
        setattr(self.counters, leg, getattr(self.counters, leg) + 1)
        async with self._running():
            if leg == "context":
                return await self._context(job)
            self._refuse_some("fail_generation", self.counters.generation + self.counters.aggregated)
            await self._take_over(job)
            return await (self._stream(request, job) if job.stream else self._whole(job))

    def _admit(self, request: web.Request) -> None:
        if self._secret and request.headers.get("Authorization") != f"Bearer {self._secret}":
            raise AuthenticationError("The cluster's secret is missing or wrong")
        if self.draining or not self.ready:
            raise UnavailableError("This server takes no requests now")

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        self.counters.running += 1
        self._tell_change()
        try:
            yield
            self.counters.finished += 1
        except asyncio.CancelledError:
            self.counters.cancelled += 1
            raise
        except ConnectionError:
            self.counters.cancelled += 1
        finally:
            self.counters.running -= 1
            self._tell_change()

    def _refuse_some(self, flag: str, num_so_far: int) -> None:
        if num_so_far <= getattr(self.flags, flag):
            self.counters.refused += 1
            status = self.flags.fail_status
            error: TrtdisaggError = {429: OverloadedError, 503: UnavailableError}.get(status, RequestError)(flag)
            error.http_status = status
            raise error

    async def _context(self, job: Job) -> web.Response:
        self._refuse_some("fail_context", self.counters.context)
        await self._one_token(0)
        ticket = None
        request_id = next(self._request_ids)
        if job.max_tokens > 1:
            ticket = self.tickets.hold(request_id, len(job.prompt), self.port)
            self._tell_change()
        body = bodies.context_answer(job, ticket, request_id, speaks_seam=not self.flags.foreign)
        return web.Response(body=body, content_type="application/json")

    async def _take_over(self, job: Job) -> None:
        """Fetch the blocks, or compute the prefix."""
        if job.params.request_type != "generation_only":
            return
        if job.params.encoded_opaque_state is None:
            self.counters.recomputed += 1
            return
        ticket = unseal(job.params.encoded_opaque_state, self._secret.encode())
        url = f"http://{ticket.host}:{ticket.port}/fake/release"
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5)) as session,
                session.post(url, json={"request_id": ticket.request_id}) as answer,
            ):
                valid = answer.status == 200
        except aiohttp.ClientError:
            valid = False
        self.counters.fetched += valid
        self.counters.recomputed += not valid
        self._tell_change()

    async def _one_token(self, position: int) -> None:
        if position == self.flags.die_at_token:
            die(f"at token {position}")
        if self.flags.token_delay_ms:
            await asyncio.sleep(self.flags.token_delay_ms / 1000)
        self.counters.tokens += 1

    async def _tokens(self, job: Job, start: int) -> AsyncIterator[int]:
        for position in range(start, job.max_tokens):
            await self._may_generate.wait()
            await self._one_token(position)
            yield position

    async def _whole(self, job: Job) -> web.Response:
        async for _ in self._tokens(job, job.num_done):
            pass
        body = bodies.whole(job, job.text(0, job.max_tokens), job.max_tokens, "length")
        return web.Response(body=body, content_type="application/json")

    async def _stream(self, request: web.Request, job: Job) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        seam = job.seam if not self.flags.foreign else None
        skip = job.num_done if seam else 0
        unsent = job.text(0, skip)[seam.num_chars_sent :] if seam else ""
        if skip == 0:
            await response.write(bodies.first_event(job))
        async for position in self._tokens(job, skip):
            if position == self.flags.cut_at_token:
                assert request.transport is not None
                request.transport.abort()
            await response.write(bodies.event(job, unsent + job.text(position, position + 1)))
            unsent = ""
        await response.write(bodies.ending(job, job.max_tokens))
        await response.write_eof()
        return response

    def _expired(self) -> None:
        self.counters.expired += 1
        self._tell_change()

    def _look_if_idle(self) -> None:
        self.counters.held = len(self.tickets.held)
        if self.counters.running == 0 and not self.tickets.held:
            self.idle.set()
        else:
            self.idle.clear()

    def _tell_change(self) -> None:
        self._look_if_idle()
        self._changed.set()
        self._changed = asyncio.Event()


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except TrtdisaggError as e:
        return web.Response(status=e.http_status, body=encode_error(e), content_type="application/json")


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def die(why: str) -> None:
    print(f"fake engine: dying {why}", file=sys.stderr, flush=True)
    os._exit(1)
