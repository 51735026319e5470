"""How a fake engine answers requests: aggregated, or as a context or a generation leg.

The bodies are the only part of it that needs much code, so they are imported with the first request.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from fakes.condition import Condition
from fakes.tiny_http import Connection, Request, Response, post

from trtdisagg.errors import AuthenticationError, OverloadedError, RequestError, TrtdisaggError, UnavailableError

if TYPE_CHECKING:
    from fakes.bodies import Job


class Legs:
    """
    :param condition: of the engine; counted and looked at here.
    """

    def __init__(self, condition: Condition) -> None:
        self.condition = condition
        self.spec = condition.spec
        self.flags = condition.flags
        self.counters = condition.counters
        self.last_bodies: dict[str, bytes] = {}
        self.last_headers: dict[str, dict[str, str]] = {}
        self._request_ids = itertools.count(1)

    async def answer(self, request: Request, *, chat: bool) -> Response | None:
        """
        :raises TrtdisaggError: when it cannot be served.
        """
        from fakes import bodies

        self.admit(request)
        job = bodies.decode_job(request.body, self.spec, chat=chat)
        leg = {"context_only": "context", "generation_only": "generation"}.get(job.params.request_type, "aggregated")
        self.last_bodies[leg], self.last_headers[leg] = request.body, request.headers
        setattr(self.counters, leg, getattr(self.counters, leg) + 1)
        async with self._running():
            self.condition.kv.compute(job.prompt)
            if leg == "context":
                return await self._context(job)
            self._refuse_some("fail_generation", self.counters.generation + self.counters.aggregated)
            async with self.condition.batch:
                await self._take_over(job)
                return await (self._stream(request, job) if job.stream else self._whole(job))

    def admit(self, request: Request) -> None:
        self.check_secret(request)
        if self.condition.draining or not self.condition.ready:
            raise UnavailableError("This server takes no requests now")

    def check_secret(self, request: Request) -> None:
        secret = self.condition.secret if self.condition.spec.clients_know_secret else ""
        if secret and request.headers.get("Authorization") != f"Bearer {secret}":
            raise AuthenticationError("The cluster's secret is missing or wrong")

    async def canary(self) -> None:
        """One token.

        :raises UnavailableError: when none comes.
        """
        self.counters.canaries += 1
        if self.flags.canary_fails:
            raise UnavailableError("no token could be generated: as it was asked to")
        try:
            async with asyncio.timeout(10):
                await self.condition.may_compute.wait()
        except TimeoutError:
            raise UnavailableError("no token was generated within 10 s") from None

    @contextlib.asynccontextmanager
    async def _running(self) -> AsyncIterator[None]:
        self.counters.running += 1
        self.condition.tell_change()
        try:
            yield
            self.counters.finished += 1
        except asyncio.CancelledError:
            self.counters.cancelled += 1
            if self.condition.cut_short:
                raise UnavailableError("The server is shutting down") from None
            raise
        except ConnectionError:
            self.counters.cancelled += 1
            raise
        finally:
            self.counters.running -= 1
            self.condition.tell_change()

    def _refuse_some(self, flag: str, num_so_far: int) -> None:
        if num_so_far <= getattr(self.flags, flag):
            self.counters.refused += 1
            raise self._refusal(flag)

    def _refusal(self, why: str) -> TrtdisaggError:
        status = self.flags.fail_status
        kinds: dict[int, type[TrtdisaggError]] = {429: OverloadedError, 500: TrtdisaggError, 503: UnavailableError}
        error = kinds.get(status, RequestError)(why)
        error.http_status = status
        return error

    async def _context(self, job: Job) -> Response:
        from fakes import bodies

        self._refuse_some("fail_context", self.counters.context)
        start = time.monotonic()
        await self._one_token(0)
        self.counters.prompt_tokens += len(job.prompt)
        self.condition.first_token.observe(time.monotonic() - start)
        ticket = None
        request_id = next(self._request_ids)
        if job.max_tokens > 1:
            ticket = self.condition.tickets.hold(request_id, len(job.prompt), self.condition.port)
            self.condition.tell_change()
        return Response(bodies.context_answer(job, ticket, request_id, speaks_seam=not self.flags.foreign))

    async def _take_over(self, job: Job) -> None:
        """Fetch the blocks, or compute the prefix."""
        if job.params.request_type != "generation_only":
            return
        valid = job.params.encoded_opaque_state is not None and await self._fetch(job.params.encoded_opaque_state)
        self.counters.replayed += job.num_done > 1
        self.counters.fetched += valid
        self.counters.recomputed += not valid
        self.condition.tell_change()

    async def _fetch(self, sealed: str) -> bool:
        from trtdisagg.protocol.handover import unseal

        ticket = unseal(sealed, self.condition.secret.encode())
        body = b'{"request_id":%d}' % ticket.request_id
        try:
            return await post(ticket.host, ticket.port, "/fake/release", body, timeout_s=30) == 200
        except OSError:
            return False

    async def _one_token(self, position: int) -> None:
        if position == self.flags.die_at_token:
            die(f"at token {position}")
        if self.flags.token_delay_ms:
            await asyncio.sleep(self.flags.token_delay_ms / 1000)
        await self.condition.may_compute.wait()
        self.counters.tokens += 1

    async def _tokens(self, job: Job, start: int) -> AsyncIterator[int]:
        began = last = time.monotonic()
        for position in range(start, job.max_tokens):
            await self.condition.may_generate.wait()
            await self._one_token(position)
            now = time.monotonic()
            if position == start:
                self.condition.first_token.observe(now - began)
            else:
                self.condition.per_token.observe(now - last)
            last = now
            yield position

    async def _whole(self, job: Job) -> Response:
        from fakes import bodies

        async for _ in self._tokens(job, job.num_done):
            pass
        return Response(bodies.whole(job, job.text(0, job.max_tokens), job.max_tokens, "length"))

    async def _stream(self, request: Request, job: Job) -> None:
        from fakes import bodies

        client = request.connection
        client.begin_stream("text/event-stream")
        if self.flags.foreign:
            job.seam = None
        num_sent = job.num_done if job.seam else 0
        begin = b"" if job.has_begun else bodies.first_event(job)
        try:
            async for position in self._tokens(job, num_sent):
                text = job.text(position, position + 1)
                await self._send(client, position, begin + bodies.event(job, text, position, position + 1))
                begin = b""
            await self._send(client, job.max_tokens, begin + bodies.ending(job, job.max_tokens))
        except asyncio.CancelledError:
            if not self.condition.cut_short:
                raise
            self.counters.cancelled += 1
            await client.write(bodies.error_event(UnavailableError("The server is shutting down")))
        except TrtdisaggError as e:
            await client.write(bodies.error_event(e))
        await client.end_stream()

    async def _send(self, client: Connection, position: int, events: bytes) -> None:
        """Send what says the token at this position, or what is behind the last; or misbehave instead."""
        flags = self.flags
        if position == flags.error_at_token:
            raise self._refusal("error_at_token")
        if position == flags.silent_at_token:
            await asyncio.Event().wait()
        if position == flags.cut_at_token:
            await client.write(events[: {"before": 0, "within": len(events) // 2, "behind": len(events)}[flags.cut]])
            client.transport.close()
        await client.write(events)

    def bodies_seen(self) -> dict[str, Any]:
        """The last body and headers of each kind of leg."""
        import msgspec

        raw = {leg: msgspec.Raw(body) for leg, body in self.last_bodies.items()}
        return {"bodies": raw, "headers": self.last_headers}


def die(why: str) -> None:
    print(f"fake engine: dying {why}", file=sys.stderr, flush=True)
    os._exit(1)
