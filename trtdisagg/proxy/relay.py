"""One request from admission to its last byte: context leg, first token to the client, generation leg, relay.

    choose servers ---> context leg ---> first chunk to the client ---> generation leg ---> relay its bytes
         ^                  |                                                |
         |                  v failed                                         v failed before its first byte
         +----- both legs again elsewhere, new id             generation again elsewhere, without the used ticket

Only one of ours may begin behind the first token; with other servers nothing is sent before generation speaks, so a
failure there means both legs again. From generation's first byte on there is no second try: a stream that breaks ends
with an error event. Servers are chosen when there are some with room: until then the request waits (admission.py).
A server that leaves after it was chosen is asked all the same: it ends only when nothing counts on it (uses.py).
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from aiohttp import web
from msgspec.structs import replace

from trtdisagg.errors import UpstreamError
from trtdisagg.protocol.control import Member
from trtdisagg.proxy import last_token
from trtdisagg.proxy.admission import Chosen
from trtdisagg.proxy.client_stream import ClientStream
from trtdisagg.proxy.context import FirstToken, decode_first_token
from trtdisagg.proxy.deadlines import Deadline
from trtdisagg.proxy.legs import LegFailedError
from trtdisagg.proxy.means import Means
from trtdisagg.proxy.record import Record
from trtdisagg.proxy.releases import Unread
from trtdisagg.proxy.request import Incoming
from trtdisagg.proxy.routing.ask import Ask
from trtdisagg.proxy.routing.choose import Route, choose, choose_successor, speaks_seam
from trtdisagg.registry.members import Snapshot

MAX_ANSWER_BYTES = 256 * 1024 * 1024

logger = logging.getLogger(__name__)


class Relay:
    """One request.

    :param ask: what routing looks at.
    :param client: where a streamed answer goes.
    :param record: what happens is noted there.
    :param deadline: for the first token, as seen from outside.
    """

    def __init__(
        self,
        means: Means,
        incoming: Incoming,
        client: ClientStream,
        *,
        ask: Ask,
        record: Record,
        deadline: Deadline,
    ) -> None:
        self._means = means
        self._incoming = incoming
        self._client = client
        self._ask = ask
        self._record = record
        self._deadline = deadline
        self._first: FirstToken | None = None
        """From one of ours: generation goes on from it, however often it is asked."""
        self._ticket_used = False
        self._unread: Unread | None = None
        """What a context server holds for us until a generation server answers."""
        self._generation_spoke = False
        self._claim = means.uses.claim(ask)
        self._first_token_at = deadline.due

    async def run(self) -> web.StreamResponse:
        """Answer the client.

        :raises TrtdisaggError, RefusedError: what the client is to be told, be it before or after the first byte.
        """
        with self._claim:
            try:
                return await self._with_retries()
            finally:
                self._release_unread()

    async def _with_retries(self) -> web.StreamResponse:
        retries_left = self._means.spec.max_retries
        while True:
            try:
                return await self._attempt()
            except LegFailedError as e:
                logger.warning("%s: %s", self._incoming.request_id, e)
                if self._generation_spoke or retries_left == 0:
                    raise e.as_error() from e
                self._note(e)
            retries_left -= 1
            self._record.num_retries += 1
            if self._first is None:
                self._deadline.due = self._first_token_at

    def _note(self, failure: LegFailedError) -> None:
        """Remember what a failed leg means for the next attempt, and count on nothing that is of no use to it."""
        self._ask = replace(self._ask, avoid={*self._ask.avoid, failure.member.name})
        self._ticket_used = self._ticket_used or failure.reached
        self._claim.drop_generation()
        if self._first is None or self._ticket_used:
            self._release_unread()
            self._claim.drop_context()

    def _release_unread(self) -> None:
        """Of all ends that a request may have, in all but one nobody comes for its KV; where somebody has come and
        gone, the context server knows that already."""
        if self._unread is not None:
            self._means.releases.add(self._unread)
            self._unread = None

    async def _attempt(self) -> web.StreamResponse:
        if self._first is not None:
            return await self._go_on(self._first)
        incoming = self._incoming
        chosen = await self._admit(self._choose)
        context = chosen.context
        self._record.path, self._record.is_blind = chosen.path, chosen.is_blind
        self._client.visit.goes_to(context, chosen.generation)
        if context is None:
            seam = speaks_seam(chosen.generation)
            return await self._generate(chosen.generation, incoming.alone_body(seam=seam))
        seam = speaks_seam(context) and speaks_seam(chosen.generation)
        first = await self._prefill(context, chosen.generation, seam=seam)
        if first.is_last:
            self._record.path = "first_token"
            return await self._finish_at_first(first)
        if first.seam is not None:
            self._first = first
            if incoming.stream and first.seam.first_chunk:
                await self._begin(first.seam.first_chunk.encode())
        return await self._generate(chosen.generation, self._generation_body(first))

    async def _go_on(self, first: FirstToken) -> web.StreamResponse:
        """Ask another generation server to go on behind the first token."""
        successor = await self._admit(self._choose_successor, has_begun=True)
        self._client.visit.goes_on(successor)
        return await self._generate(successor, self._generation_body(first))

    async def _admit(self, choose: Callable[[Snapshot], Chosen | None], *, has_begun: bool = False) -> Chosen:
        due = self._deadline.due
        if due == math.inf:  # it was lifted: the client waits as between any two tokens
            due = asyncio.get_running_loop().time() + self._means.spec.idle_timeout_s
        chosen = await self._means.admission.admit(
            choose,
            model=self._incoming.model,
            due=due,
            arrived=self._record.arrived,
            priority=self._incoming.priority,
            has_begun=has_begun,
            may_refuse=not self._ask.avoid,
        )
        self._record.chosen = self._record.chosen or time.monotonic()
        return chosen

    def _choose(self, now: Snapshot) -> Route | None:
        """Both servers, and count on them."""
        route = choose(now, self._ask, self._means.view)
        if route is not None:
            self._claim.take(route.context, route.generation)
        return route

    def _choose_successor(self, now: Snapshot) -> Member:
        successor = choose_successor(now, self._ask, self._means.view)
        self._claim.take_generation(successor)
        return successor

    # --- context leg ------------------------------------------------------------------------------------------------

    async def _prefill(self, member: Member, generation: Member, *, seam: bool) -> FirstToken:
        incoming, record = self._incoming, self._record
        self._ticket_used = False
        record.disagg_request_id = self._means.ids.next()
        body = incoming.context_body(record.disagg_request_id, seam=seam, generation=generation.name)
        async with self._means.legs.open("context", member, incoming.path, body, record) as answer:
            first = decode_first_token(await answer.read(MAX_ANSWER_BYTES), seam=seam)
        self._claim.prefilled()
        if self._means.perf.is_on:
            record.ctx_request_id = first.ctx_request_id
        if member.wire_version is not None and first.ticket is not None:
            self._unread = Unread(member, first.ticket)
        return first

    async def _finish_at_first(self, first: FirstToken) -> web.StreamResponse:
        incoming = self._incoming
        self._claim.drop_generation()
        self._client.visit.goes_on(None)
        if not incoming.stream:
            return self._whole(
                last_token.whole(first.body, prompt_token_ids=incoming.return_token_ids and incoming.chat)
            )
        events = first.seam.first_chunk.encode() if first.seam and first.seam.first_chunk else None
        await self._begin(
            events or last_token.streamed(first.body, chat=incoming.chat, include_usage=incoming.include_usage)
        )
        await self._client.end()
        return self._client.response

    # --- generation leg ---------------------------------------------------------------------------------------------

    def _generation_body(self, first: FirstToken) -> bytes:
        if self._ticket_used:
            params = first.params_without_ticket(self._means.ids.next())
        else:
            params = first.params_with_ticket()
        return self._incoming.generation_body(first, params)

    async def _generate(self, member: Member, body: bytes) -> web.StreamResponse:
        if self._incoming.stream:
            await self._relay(member, body)
            return self._client.response
        return self._whole(await self._fetch(member, body))

    async def _relay(self, member: Member, body: bytes) -> None:
        incoming, idle_timeout_s = self._incoming, self._means.spec.idle_timeout_s
        # Before the first token the request's own deadline holds; after it, what holds between any two tokens.
        due = asyncio.get_running_loop().time() + idle_timeout_s if self._client.begun else math.inf
        leg = self._means.legs.open("generation", member, incoming.path, body, self._record)
        try:
            async with self._means.deadlines.by(due) as silence, leg as answer:
                piece = await answer.next_piece()
                silence.lift()
                if not piece:
                    raise LegFailedError(member, "the answer is empty")
                leg.is_answered()
                self._unread = None
                self._generation_spoke = True
                self._claim.drop_context()
                await self._begin(piece)
                await answer.pump(self._client.feed, self._client.drain, idle_timeout_s)
        except TimeoutError:
            failure = LegFailedError(member, f"no token came for {idle_timeout_s:g} s")
            leg.record.end(time.monotonic(), "failed", str(failure))
            raise failure from None
        if not self._client.is_complete:
            leg.record.end(time.monotonic(), "failed", "its answer broke off")
            raise UpstreamError(f"The answer of {member.name} broke off")
        await self._client.end()

    async def _begin(self, data: bytes) -> None:
        if self._client.begun:
            self._client.feed(data)
            return
        self._deadline.lift()
        self._record.first_token = time.monotonic()
        await self._client.begin(data)

    async def _fetch(self, member: Member, body: bytes) -> bytes:
        incoming = self._incoming
        # A whole answer shows no tokens, so there is nothing to time. It may take as long as its server is there.
        self._deadline.lift()
        async with self._means.legs.open("generation", member, incoming.path, body, self._record) as answer:
            self._unread = None
            self._claim.drop_context()
            return await answer.read(MAX_ANSWER_BYTES)

    def _whole(self, body: bytes) -> web.Response:
        return web.Response(body=body, content_type="application/json")
