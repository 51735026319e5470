"""The routes of a fake engine, and those for tests (see engine.py)."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import Awaitable, Callable

import msgspec
from fakes.condition import Condition
from fakes.legs import Legs
from fakes.tiny_http import Request, Response

from trtdisagg import __version__
from trtdisagg.errors import RequestError, TrtdisaggError, UnavailableError

_Route = Callable[[Request], Awaitable[Response | None]]


class Server:
    """The HTTP side of one fake engine."""

    def __init__(self, condition: Condition) -> None:
        self.condition = condition
        self.legs = Legs(condition)
        self.grandchild: int | None = None
        self._routes: dict[str, tuple[str, _Route]] = {
            "/v1/completions": ("POST", lambda request: self.legs.answer(request, chat=False)),
            "/v1/chat/completions": ("POST", lambda request: self.legs.answer(request, chat=True)),
            "/v1/models": ("GET", self._models),
            "/health": ("GET", self._health),
            "/health_generate": ("GET", self._health_generate),
            "/version": ("GET", self._version),
            "/fake/state": ("GET", self._state),
            "/fake/evict": ("POST", self._evict),
            "/fake/wait": ("GET", self._wait),
            "/fake/hold": ("POST", self._hold),
            "/fake/go": ("POST", self._go),
            "/fake/stick": ("POST", self._stick),
            "/fake/unstick": ("POST", self._unstick),
            "/fake/flags": ("POST", self._flags),
            "/fake/release": ("POST", self._release),
            "/kv/release": ("POST", self._release_unread),
            "/fake/deafen": ("POST", self._deafen),
            "/fake/spawn": ("POST", self._spawn),
            "/fake/print": ("POST", self._print),
        }
        if not condition.flags.foreign:
            self._routes["/server_info"] = ("GET", self._server_info)
            self._routes["/kv_events"] = ("GET", condition.kv.follow)

    async def handle(self, request: Request) -> Response | None:
        """Answer a request; errors have the form they have on the real engine."""
        try:
            method, route = self._route(request)
            if request.method != method:
                return Response(b"", 405, headers={"Allow": method})
            return await route(request)
        except TrtdisaggError as e:
            from trtdisagg.protocol.answers import encode_error

            return Response(encode_error(e), e.http_status)

    def _route(self, request: Request) -> tuple[str, _Route]:
        try:
            return self._routes[request.path]
        except KeyError:
            error = RequestError(f"{request.path}: Not Found")
            error.http_status = 404
            raise error from None

    async def _models(self, request: Request) -> Response:
        from trtdisagg.protocol.answers import ModelCard, ModelList

        return _json(ModelList(data=[ModelCard(id=self.condition.spec.model, created=1)]))

    async def _health(self, request: Request) -> Response:
        if reason := self.condition.reason:
            raise UnavailableError(reason)
        return _json({"status": "ok"})

    async def _health_generate(self, request: Request) -> Response:
        self.legs.check_secret(request)
        if reason := self.condition.reason:
            raise UnavailableError(reason)
        await self.legs.canary()
        return _json({"status": "ok"})

    async def _version(self, request: Request) -> Response:
        return _json({"version": __version__})

    async def _server_info(self, request: Request) -> Response:
        from trtdisagg.protocol.control import Member

        spec = self.condition.spec
        member = Member(
            name=spec.name,
            role=self.condition.role,
            model=spec.model,
            url=f"{spec.http_host}:{self.condition.port}",
            incarnation=spec.incarnation,
            wire_version=spec.wire_version,
            max_seq_len=spec.max_seq_len,
            num_blocks=spec.num_blocks,
            tokens_per_block=spec.tokens_per_block,
            max_batch_size=spec.max_batch_size,
        )
        return _json(member)

    # --- for tests --------------------------------------------------------------------------------------------------

    async def _state(self, request: Request) -> Response:
        state = {
            **dataclasses.asdict(self.condition.counters),
            **self.legs.bodies_seen(),
            "held_tickets": sorted(self.condition.tickets.held),
            "role": self.condition.role,
            "met": self.condition.met,
            "gone": self.condition.gone,
            "grandchild": self.grandchild,
            "pid": os.getpid(),
            "num_blocks": self.condition.kv.num_blocks,
            "num_followers": self.condition.kv.num_listeners,
        }
        return _json(state)

    async def _wait(self, request: Request) -> Response:
        name, at_least = request.query["name"], int(request.query.get("at_least", "1"))
        try:
            async with asyncio.timeout(50):
                while getattr(self.condition.counters, name) < at_least:
                    await self.condition.changed.wait()
        except TimeoutError:
            text = f"{name} is {getattr(self.condition.counters, name)}, not {at_least}"
            return Response(text.encode(), 504, "text/plain")
        return await self._state(request)

    async def _hold(self, request: Request) -> Response:
        self.condition.may_generate.clear()
        return Response()

    async def _go(self, request: Request) -> Response:
        self.condition.may_generate.set()
        return Response()

    async def _stick(self, request: Request) -> Response:
        self.condition.stick()
        return Response()

    async def _unstick(self, request: Request) -> Response:
        self.condition.unstick()
        return Response()

    async def _flags(self, request: Request) -> Response:
        vars(self.condition.flags).update(msgspec.json.decode(request.body))
        return Response()

    async def _release_unread(self, request: Request) -> Response:
        from trtdisagg.protocol.handover import Release, unseal

        sealed = msgspec.json.decode(request.body, type=Release).ticket
        if self.condition.tickets.drop(unseal(sealed, self.condition.secret.encode()).request_id):
            self.condition.counters.released += 1
            self.condition.tell_change()
        return Response()

    async def _release(self, request: Request) -> Response:
        released = self.condition.tickets.drop(msgspec.json.decode(request.body)["request_id"])
        self.condition.tell_change()
        return Response(status=200 if released else 410)

    async def _evict(self, request: Request) -> Response:
        self.condition.kv.evict()
        return Response()

    async def _deafen(self, request: Request) -> Response:
        self.condition.flags.ignore_sigterm = True
        return Response()

    async def _spawn(self, request: Request) -> Response:
        """:returns: the state, with the grandchild's pid."""
        import subprocess

        command = ["sleep", "3600"]
        self.grandchild = (await asyncio.to_thread(subprocess.Popen, command, start_new_session=True)).pid
        return await self._state(request)

    async def _print(self, request: Request) -> Response:
        """Outside the loop, which must not wait for whoever reads it."""
        num_bytes = msgspec.json.decode(request.body)["num_bytes"]
        await asyncio.to_thread(_print_bytes, num_bytes)
        return Response()


def _print_bytes(num_bytes: int) -> None:
    line = "x" * 1023
    for _ in range(num_bytes // 1024):
        print(line)
    sys.stdout.flush()


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value))
