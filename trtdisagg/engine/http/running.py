"""One job while the engine works on it: outputs of its requests in, pieces of its answers out.

engine -> mailbox -> answers -> pieces, those of a moment together
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

from trtdisagg.cache.events import BlockListener
from trtdisagg.engine.http.answer import Answer, Prompt
from trtdisagg.engine.http.delivery import Delivery, Mailbox
from trtdisagg.engine.http.job import Job
from trtdisagg.engine.http.piece import Piece
from trtdisagg.engine.progress import Pulse
from trtdisagg.engine.record import Record
from trtdisagg.engine.request import Output, Request
from trtdisagg.protocol.answers import PromptTokensDetails, Usage
from trtdisagg.protocol.handover import SeamPart, Ticket
from trtdisagg.protocol.kv_events import KvEvent
from trtdisagg.protocol.stats import Stats
from trtdisagg.text.tokenizer import Tokenizer


class Engine(Protocol):
    """What is asked of an executor."""

    def enqueue_request(self, request: Request) -> int: ...
    def cancel_request(self, request_id: int, choice: int | None = None) -> None: ...
    def release(self, ticket: Ticket) -> None: ...
    def take_kv_events(self) -> list[KvEvent]: ...
    @property
    def root_model(self) -> str: ...
    def listen(self, listener: BlockListener) -> None: ...
    def unlisten(self, listener: BlockListener) -> None: ...
    def stats(self) -> Stats: ...
    def health(self) -> str | None: ...
    def pulse(self) -> Pulse: ...


class Running:
    """A job and its answers.

    :param stream_interval: so many tokens of an answer come together, but for the first.
    """

    def __init__(
        self, job: Job, tokenizer: Tokenizer, engine: Engine, mailbox: Mailbox, *, stream_interval: int = 1
    ) -> None:
        self.job = job
        self.prompts = [Prompt(job, number, tokenizer) for number in range(len(job.requests))]
        self.answers: list[Answer] = []
        self._of: dict[tuple[int, int], Answer] = {}
        """Request's id and choice -> those that the engine works on."""
        for request, prompt in zip(job.requests, self.prompts, strict=True):
            for _ in range(request.num_choices):
                self.answers.append(Answer(job, len(self.answers), request, prompt, tokenizer))
        self._engine = engine
        self._mailbox = mailbox
        self._stream_interval = stream_interval
        self._pending = {a.index: a.begin for a in self.answers if a.begin.text or a.begin.tokens or a.begin.calls}
        """Pieces too small to be sent."""
        self._num_told = [0] * len(self.answers)
        """Tokens of each answer at its last piece."""
        self.records: dict[int, Record] = {}
        """Times of requests that have begun."""
        self._ticket: Ticket | None = None
        self._num_open = sum(not answer.is_complete for answer in self.answers)
        self.finish_reason = self.answers[-1].finish_reason
        """Of the answer that was complete last."""

    @property
    def is_complete(self) -> bool:
        return not self._num_open

    @property
    def usage(self) -> Usage:
        num_prompt = sum(len(prompt.token_ids) for prompt in self.prompts)
        num_output = sum(len(answer.token_ids) for answer in self.answers)
        num_cached = sum(prompt.num_cached_tokens for prompt in self.prompts)
        elsewhere = self.job.num_cached_elsewhere
        return Usage(
            prompt_tokens=num_prompt,
            completion_tokens=num_output,
            total_tokens=num_prompt + num_output,
            prompt_tokens_details=PromptTokensDetails(num_cached if elsewhere is None else elsewhere),
        )

    def part(self) -> SeamPart | None:
        """How to go on behind what was said by now, where each event says it; see `Answer.part`."""
        return self.answers[0].part() if self.job.has_parts else None

    async def start(self) -> None:
        """Give the requests to the engine, unless the tokens that came with them end them already.

        :raises RequestError: when the engine can never serve them.
        :raises OverloadedError: when its queue is full.
        """
        if self.is_complete:
            for ticket in filter(None, (request.ticket for request in self.job.requests)):
                self._engine.release(ticket)
            return
        answers = iter(self.answers)
        for request in self.job.requests:
            await self._enqueue(request)
            self._of.update(((request.id, choice), next(answers)) for choice in range(request.num_choices))

    async def _enqueue(self, request: Request) -> None:
        if request.guide is None:
            self._engine.enqueue_request(request)
            return
        loop = asyncio.get_running_loop()  # a guide takes a while to make, and the other answers go on
        enqueued = loop.run_in_executor(None, self._engine.enqueue_request, request)
        try:
            await asyncio.shield(enqueued)
        except asyncio.CancelledError:
            enqueued.add_done_callback(lambda _: self._engine.cancel_request(request.id))
            raise

    async def next(self) -> list[Piece]:
        """Wait for the next pieces, one of an answer at most. The last one of each may have no text.

        :raises TrtdisaggError: when the engine failed.
        """
        if self.is_complete:
            return [] if self.job.has_ended else [answer.begin for answer in self.answers]
        while True:
            if pieces := self._take(await self._mailbox.take()):
                return pieces

    async def pump(self, send: Callable[[list[Piece]], bool]) -> None:
        """Pass pieces on as they come, until all is said or `send` says that it is enough for now.

        :raises TrtdisaggError: when the engine failed.
        """

        def sink(outputs: list[Output]) -> bool:
            pieces = self._take(outputs)
            return (not pieces or send(pieces)) and self._num_open > 0

        await self._mailbox.pump(sink)

    def hand_over(self) -> Ticket:
        """Let the holder of the ticket decide from now on how long the engine holds the blocks."""
        assert self._ticket is not None
        self._of.clear()
        return self._ticket

    def close(self) -> None:
        """Let the engine forget what nobody wants any more: the client has left, or another answer failed."""
        for request_id in {request_id for request_id, _ in self._of}:
            self._engine.cancel_request(request_id)
        self._of.clear()

    def _take(self, outputs: list[Output]) -> list[Piece]:
        pending = self._pending
        for output in outputs:
            answer = self._of.get((output.request_id, output.choice))
            if answer is None:
                continue  # a stop string has ended it
            answer.prompt.take(output)
            if output.record is not None:
                self.records[output.request_id] = output.record
            piece = answer.take(output)
            before = pending.get(answer.index)
            pending[answer.index] = piece if before is None else before + piece
            if piece.finish_reason is not None:
                self._finish(answer, output)
        due = [piece for piece in pending.values() if self._is_due(piece)]
        for piece in due:
            del pending[piece.index]
            self._num_told[piece.index] = len(self.answers[piece.index].token_ids)
        return due

    def _finish(self, answer: Answer, output: Output) -> None:
        self._num_open -= 1
        self.finish_reason = answer.finish_reason
        key = output.request_id, output.choice
        if output.ticket is not None:
            self._ticket = output.ticket  # the engine holds its blocks
            return
        del self._of[key]
        if output.finish_reason is None:  # a stop string has ended it, which the engine does not know
            self._cancel(*key)

    def _cancel(self, request_id: int, choice: int) -> None:
        if self.job.requests[0].num_choices > 1:
            self._engine.cancel_request(request_id, choice)
        else:
            self._engine.cancel_request(request_id)

    def _is_due(self, piece: Piece) -> bool:
        if piece.finish_reason is not None:
            return True
        if not (piece.text or piece.calls or (piece.tokens and not self.job.look.detokenize)):
            return False
        num_told = self._num_told[piece.index]
        return not num_told or len(self.answers[piece.index].token_ids) - num_told >= self._stream_interval


@contextlib.contextmanager
def running(
    job: Job, tokenizer: Tokenizer, engine: Engine, delivery: Delivery, *, stream_interval: int = 1
) -> Iterator[Running]:
    """A job and its answers, for as long as somebody wants them; then the engine forgets what is left of it."""
    with delivery.mailbox([request.id for request in job.requests]) as mailbox:
        running_job = Running(job, tokenizer, engine, mailbox, stream_interval=stream_interval)
        try:
            yield running_job
        finally:
            running_job.close()
