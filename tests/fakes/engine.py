"""A fake engine: a real process that speaks the real protocol, without torch, and misbehaves on request.

    python tests/fakes/engine.py [misbehaviour] --spec FILE       (see --help)

What it says comes from words.py. Beside the routes of an engine it has some for tests:

    GET  /fake/state                                counters, held tickets, the last body of each leg
    GET  /fake/wait?name=cancelled&at_least=1       the same, once that counter is so high (or 504 after 20 s)
    POST /fake/hold /fake/go                        stop before the next token of generation, go on
    POST /fake/release {"request_id": N}            what a generation server does when it has fetched the blocks
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import aiohttp
import msgspec
from aiohttp import web

from tests.fakes import bodies
from tests.fakes.bodies import Job
from trtdisagg import __version__
from trtdisagg.errors import AuthenticationError, OverloadedError, RequestError, TrtdisaggError, UnavailableError
from trtdisagg.protocol.control import Member
from trtdisagg.protocol.handover import Ticket, seal, unseal
from trtdisagg.protocol.openai import ModelCard, ModelList, encode_error
from trtdisagg.protocol.parent import end_with_parent
from trtdisagg.protocol.reports import Reporter
from trtdisagg.protocol.spec import Beat, EngineSpec, Failed, Loading, Ready, Stats

BEAT_S = 0.5


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


class FakeEngine:
    """One engine process.

    :param flags: how to misbehave.
    """

    def __init__(self, spec: EngineSpec, flags: argparse.Namespace, reporter: Reporter) -> None:
        self.spec = spec
        self.flags = flags
        self.reporter = reporter
        self.counters = Counters()
        self.last_bodies: dict[str, msgspec.Raw] = {}
        self.last_headers: dict[str, dict[str, str]] = {}
        self.held: dict[int, asyncio.TimerHandle] = {}
        self.grandchild: int | None = None
        self.port = spec.port
        self.ready = False
        self.draining = False
        self.stopped = asyncio.Event()
        self._changed = asyncio.Condition()
        self._may_generate = asyncio.Event()
        self._request_ids = itertools.count(1)
        self._secret = Path(spec.secret_file).read_text().strip() if spec.secret_file else ""

    async def run(self) -> int:
        """Serve until SIGTERM, then drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_end)
        if not self.flags.hold_generation:
            self._may_generate.set()
        runner = web.AppRunner(self._app(), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, self.spec.host, self.spec.port)
        await site.start()
        self.port = runner.addresses[0][1]
        self.reporter.send(Loading(stage="weights"))
        self._plan_misfortune(loop)
        async with asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(self._beat())
            loading = tasks.create_task(self._load())
            await self.stopped.wait()
            beating.cancel()
            loading.cancel()
        await runner.cleanup()
        return 0

    def _plan_misfortune(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.flags.spawn_grandchild:
            self.grandchild = subprocess.Popen(["sleep", "3600"], start_new_session=True).pid
            print(f"grandchild {self.grandchild}", flush=True)
        if self.flags.die_after is not None:
            loop.call_later(self.flags.die_after, _die, "after the time asked for")
        if self.flags.freeze_after is not None:
            loop.call_later(self.flags.freeze_after, time.sleep, 3600)

    async def _load(self) -> None:
        await asyncio.sleep(self.flags.ready_after)
        if self.flags.fail_loading or self.flags.fail_for_good:
            print("fake engine: cannot load the weights", file=sys.stderr, flush=True)
            self.reporter.send(Failed(message="cannot load the weights", fatal=self.flags.fail_for_good))
            os._exit(1)
        self.ready = True
        spec = self.spec
        self.reporter.send(
            Ready(
                host=spec.host,
                port=self.port,
                max_seq_len=spec.max_seq_len,
                num_blocks=spec.num_blocks,
                tokens_per_block=spec.tokens_per_block,
                dtype=spec.dtype,
            )
        )
        print(f"fake engine: {spec.name} serves on port {self.port}", flush=True)

    async def _beat(self) -> None:
        while True:
            counters = self.counters
            stats = Stats(
                num_running=counters.running,
                num_steps_total=counters.tokens,
                num_requests_total=counters.context + counters.generation + counters.aggregated,
                num_generation_tokens_total=counters.tokens,
                num_blocks=self.spec.num_blocks,
                num_used_blocks=min(counters.running + len(self.held), self.spec.num_blocks),
                num_held_blocks=len(self.held),
                num_transfers_total=counters.fetched,
            )
            self.reporter.send(Beat(stats=stats))
            await asyncio.sleep(BEAT_S)

    def _asked_to_end(self) -> None:
        if self.flags.ignore_sigterm:
            return
        if self.draining:
            self.stopped.set()
        self.draining = True
        self._look_if_drained()

    def _look_if_drained(self) -> None:
        if self.draining and self.counters.running == 0 and not self.held:
            self.stopped.set()

    # --- routes -----------------------------------------------------------------------------------------------------

    def _app(self) -> web.Application:
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
            "held_tickets": sorted(self.held),
            "bodies": self.last_bodies,
            "headers": self.last_headers,
            "grandchild": self.grandchild,
            "pid": os.getpid(),
        }
        return _json(state)

    async def _wait(self, request: web.Request) -> web.Response:
        name, at_least = request.query["name"], int(request.query.get("at_least", "1"))
        try:
            async with asyncio.timeout(20), self._changed:
                await self._changed.wait_for(lambda: getattr(self.counters, name) >= at_least)
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
        released = self._drop_ticket((await request.json())["request_id"])
        await self._tell_change()
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
        await self._tell_change()
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
            self._look_if_drained()
            await asyncio.shield(self._tell_change())

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
            ticket = self._hold_blocks(request_id, len(job.prompt))
            await self._tell_change()
        body = bodies.context_answer(job, ticket, request_id, speaks_seam=not self.flags.foreign)
        return web.Response(body=body, content_type="application/json")

    def _hold_blocks(self, request_id: int, num_tokens: int) -> str:
        loop = asyncio.get_running_loop()
        self.held[request_id] = loop.call_later(self.spec.lease_ms / 1000, self._expire, request_id)
        self.counters.held = len(self.held)
        ticket = Ticket(
            server=self.spec.name,
            incarnation=self.spec.incarnation,
            host=self.spec.host,
            port=self.port,
            request_id=request_id,
            num_tokens=num_tokens,
            blocks=[request_id],
            lease_ms=self.spec.lease_ms,
        )
        return seal(ticket, self._secret.encode())

    def _expire(self, request_id: int) -> None:
        self.counters.expired += self._drop_ticket(request_id)

    def _drop_ticket(self, request_id: int) -> bool:
        lease = self.held.pop(request_id, None)
        if lease is not None:
            lease.cancel()
        self.counters.held = len(self.held)
        self._look_if_drained()
        return lease is not None

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

    async def _one_token(self, position: int) -> None:
        if position == self.flags.die_at_token:
            _die(f"at token {position}")
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

    async def _tell_change(self) -> None:
        async with self._changed:
            self._changed.notify_all()


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


def _die(why: str) -> None:
    print(f"fake engine: dying {why}", file=sys.stderr, flush=True)
    os._exit(1)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", required=True, help="file with an EngineSpec")
    parser.add_argument("--ready-after", type=float, default=0.0, metavar="S")
    parser.add_argument("--die-after", type=float, metavar="S", help="exit 1, counted from the start")
    parser.add_argument("--die-at-token", type=int, metavar="N", help="exit 1 instead of token N (from 0) of a request")
    parser.add_argument("--cut-at-token", type=int, metavar="N", help="cut the connection instead")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--spawn-grandchild", action="store_true", help="in a session of its own")
    parser.add_argument("--freeze-after", type=float, metavar="S", help="the loop stops for ever; no beats, no answers")
    parser.add_argument("--fail-loading", action="store_true", help="report Failed and exit 1")
    parser.add_argument("--fail-for-good", action="store_true", help="the same, and say that a restart cannot help")
    parser.add_argument("--fail-context", type=int, default=0, metavar="N", help="refuse the first N context legs")
    parser.add_argument("--fail-generation", type=int, default=0, metavar="N")
    parser.add_argument("--fail-status", type=int, default=503, metavar="STATUS", help="how they are refused")
    parser.add_argument("--foreign", action="store_true", help="no seam, no /server_info: as TensorRT-LLM's server")
    parser.add_argument("--hold-generation", action="store_true", help="until POST /fake/go")
    parser.add_argument("--token-delay-ms", type=float, default=0.0)
    return parser.parse_args()


def main() -> int:
    flags = _parse()
    spec = msgspec.json.decode(Path(flags.spec).read_bytes(), type=EngineSpec)
    end_with_parent(spec.parent_pid)
    reporter = Reporter(spec.report_fd)
    with contextlib.closing(reporter):
        return asyncio.run(_run(spec, flags, reporter))


async def _run(spec: EngineSpec, flags: argparse.Namespace, reporter: Reporter) -> int:
    return await FakeEngine(spec, flags, reporter).run()


if __name__ == "__main__":
    sys.exit(main())
