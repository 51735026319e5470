"""One request from admission to its last byte: context leg, first token to the client, generation leg, relay.

    choose servers ---> context leg ---> first chunk to the client ---> generation leg ---> its events to the client
         ^                  |                                                |                     |
         |                  v failed                                         v failed              v broke off
         +----- both legs again elsewhere, new id        generation again elsewhere,    generation again elsewhere,
                                                         behind the first token         behind all that was sent

Only servers of ours go on behind tokens; with others nothing is sent before generation speaks, so that a failure there
means both legs again, and a stream that breaks ends with an error event. Which servers it is, is known by servers; how
often anything is tried again, by retries.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Mapping
from typing import Any

from trtdisagg.errors import UpstreamError
from trtdisagg.protocol.control import Member
from trtdisagg.proxy.deadlines import Deadline
from trtdisagg.proxy.http.whole_answer import AnyAnswer, WholeAnswer
from trtdisagg.proxy.means import Means
from trtdisagg.proxy.path import last_token
from trtdisagg.proxy.path.answer import Answer
from trtdisagg.proxy.path.client_stream import ClientStream
from trtdisagg.proxy.path.context import FirstToken, decode_first_token, params_of_rest
from trtdisagg.proxy.path.failures import LegFailedError
from trtdisagg.proxy.path.legs import Leg
from trtdisagg.proxy.path.releases import Unread
from trtdisagg.proxy.path.request import Incoming
from trtdisagg.proxy.path.retries import Retries
from trtdisagg.proxy.path.said import DONE, Said
from trtdisagg.proxy.path.servers import Servers
from trtdisagg.proxy.records.record import LegKind, Record
from trtdisagg.proxy.routing.ask import Ask
from trtdisagg.proxy.routing.choose import speaks_seam

logger = logging.getLogger(__name__)


class Relay:
    """One request.

    :param ask: what routing looks at of it.
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
        self._record = record
        self._deadline = deadline
        self._answer = Answer(means, client, record, deadline, incoming.last_due)
        self._retries = Retries(means.retry_budget, means.spec.max_retries, means.spec.max_migrations)
        self._servers = Servers(means, incoming, ask, record, client.visit)
        self._claim = self._servers.claim
        self._first: FirstToken | None = None
        """From one of ours: generation goes on from it, however often it is asked."""
        self._ticket_used = False
        self._unread: Unread | None = None
        """What a context server holds for us until a generation server answers."""
        self._first_token_at = deadline.due
        self._next_token_at = math.inf
        """When a client that has a first token must have the next."""

    async def run(self) -> AnyAnswer:
        """Answer the client.

        :raises TrtdisaggError, RefusedError: what the client is to be told, be it before or after the first byte.
        """
        with self._servers:
            try:
                while True:
                    try:
                        return await self._attempt()
                    except LegFailedError as e:
                        self._note(e)
            finally:
                self._release_unread()

    def _attempt(self) -> Awaitable[AnyAnswer]:
        if self._answer.has_spoken:
            return self._go_on_behind_all()
        if self._first is not None:
            return self._go_on_behind_first(self._first)
        return self._begin()

    # --- the path ---------------------------------------------------------------------------------------------------

    async def _begin(self) -> AnyAnswer:
        incoming = self._incoming
        chosen = await self._servers.both(self._due)
        context = chosen.context
        seam = speaks_seam(chosen.generation) and (context is None or speaks_seam(context))
        can_move = seam and incoming.stream and not incoming.is_indivisible
        records = self._means.records
        self._answer.said = Said(lambda: records.num_in_flight) if can_move else None
        if context is None:
            return await self._generate(chosen.generation, incoming.alone_body(seam=seam))
        first = await self._prefill(context, chosen.generation, seam=seam)
        if first.is_last:
            self._record.path = "first_token"
            return await self._finish_at_first(first)
        generation = await self._servers.large_enough(chosen, first, self._due)
        if first.seam is not None:
            self._first = first
            if incoming.stream and first.seam.first_chunk:
                await self._answer.say(first.seam.first_chunk.encode())
                self._await_next_token()
        return await self._hand_over(generation, first)

    async def _prefill(self, member: Member, generation: Member, *, seam: bool) -> FirstToken:
        self._ticket_used = False
        body = self._incoming.context_body(self._new_id(), seam=seam, generation=generation.name)
        leg = self._leg("context", member, body)
        first = await leg.fetch(lambda answer: decode_first_token(answer, seam=seam))
        self._claim.prefilled()
        if self._means.perf.is_on:
            self._record.ctx_request_id = first.ctx_request_id
        if member.wire_version is not None and first.ticket is not None:
            self._unread = Unread(member, first.ticket)
        return first

    async def _finish_at_first(self, first: FirstToken) -> AnyAnswer:
        incoming = self._incoming
        self._claim.drop_generation()
        self._client.visit.goes_on(None)
        if not incoming.stream:
            wants_tokens = incoming.return_token_ids and incoming.chat
            return WholeAnswer(last_token.whole(first.body, prompt_token_ids=wants_tokens))
        events = first.seam.first_chunk.encode() if first.seam and first.seam.first_chunk else None
        await self._answer.end(
            events or last_token.streamed(first.body, chat=incoming.chat, include_usage=incoming.include_usage)
        )
        return self._client.response

    def _hand_over(self, member: Member, first: FirstToken) -> Awaitable[AnyAnswer]:
        params = first.params_without_ticket(self._new_id()) if self._ticket_used else first.params_with_ticket()
        num_chars_sent = first.seam.num_chars_sent if first.seam is not None else None
        return self._generate(member, self._body(first, params, num_chars_sent=num_chars_sent))

    async def _generate(self, member: Member, body: bytes, num_replayed: int = 0) -> AnyAnswer:
        leg = self._leg("generation", member, body)
        leg.record.num_replayed_tokens = num_replayed
        if not self._incoming.stream:
            return WholeAnswer(await self._answer.fetch(leg, self._is_answered))
        await self._answer.relay(leg, self._next_token_at, self._is_answered)
        return self._client.response

    def _is_answered(self) -> None:
        """A generation server has taken over what the context server held."""
        self._next_token_at = math.inf
        self._unread = None
        self._claim.drop_context()

    # --- the path after a failure -----------------------------------------------------------------------------------

    def _note(self, failure: LegFailedError) -> None:
        """Remember what a failed leg means for the next attempt, and count on nothing that is of no use to it.

        :raises TrtdisaggError: there is no other attempt.
        """
        logger.warning("%s: %s", self._record.request_id, failure)
        has_begun = self._first is not None or self._client.begun
        is_bound = self._answer.has_spoken and self._answer.said is None
        if is_bound or not self._retries.take(failure, has_begun=has_begun):
            raise failure.as_error() from failure
        self._servers.failed(failure)
        self._ticket_used = self._ticket_used or failure.reached
        if self._first is None or self._ticket_used:
            self._release_unread()
            self._claim.drop_context()
        if self._client.begun:
            self._record.num_migrations += 1
        else:
            self._record.num_retries += 1
        if has_begun:
            self._await_next_token()
        else:
            self._deadline.due = self._begin_again_by()

    def _begin_again_by(self) -> float:
        """Until when the first token must be there. A whole answer may break off long after that time, and then the
        next attempt has as long as the first had."""
        if self._incoming.stream:
            return self._first_token_at
        patience_s = self._first_token_at - self._record.arrived
        again_by = asyncio.get_running_loop().time() + patience_s
        return min(max(self._first_token_at, again_by), self._incoming.last_due)

    async def _go_on_behind_first(self, first: FirstToken) -> AnyAnswer:
        return await self._hand_over(await self._servers.successor(self._due), first)

    async def _go_on_behind_all(self) -> AnyAnswer:
        """Ask another generation server for what is missing of a stream that broke."""
        said = self._answer.said
        assert said is not None
        token_ids = said.token_ids()
        if said.is_finished and (said.has_usage or not self._incoming.include_usage):
            await self._answer.end(DONE)
            return self._client.response
        if not said.is_readable:
            raise UpstreamError("The answer broke off, and what was sent of it does not say how to go on")
        params = params_of_rest(self._first, token_ids, self._new_id())
        body = self._body(self._first, params, num_chars_sent=said.num_chars_sent, has_ended=said.is_finished)
        return await self._generate(await self._servers.successor(self._due), body, len(token_ids))

    def _release_unread(self) -> None:
        """Of all ends that a request may have, in all but one nobody comes for its KV; where somebody has come and
        gone, the context server knows that already."""
        if self._unread is not None:
            self._means.releases.add(self._unread)
            self._unread = None

    # --- its parts --------------------------------------------------------------------------------------------------

    @property
    def _due(self) -> float:
        """When the client must have its first token, or its next one."""
        return min(self._deadline.due, self._next_token_at)

    def _await_next_token(self) -> None:
        if self._next_token_at == math.inf:
            self._next_token_at = asyncio.get_running_loop().time() + self._means.spec.idle_timeout_s

    def _new_id(self) -> int:
        self._record.disagg_request_id = id_ = self._means.ids.next()
        return id_

    def _leg(self, kind: LegKind, member: Member, body: bytes) -> Leg:
        return self._means.legs.open(kind, member, self._incoming.path, body, self._record)

    def _body(self, first: FirstToken | None, params: Mapping[str, Any], **seam: Any) -> bytes:
        prompt = None if first is None else first.prompt_token_ids
        return self._incoming.generation_body(params, prompt_token_ids=prompt, **seam)
