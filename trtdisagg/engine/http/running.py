"""One job while the engine works on it: its tokens become text, and text ends it.

tokens -> detokenizer -> stop strings -> what the client already has is left out -> pieces
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from trtdisagg.engine.http.delivery import Delivery, Mailbox
from trtdisagg.engine.http.intake import Job
from trtdisagg.engine.progress import Pulse
from trtdisagg.engine.request import Output, Request
from trtdisagg.errors import TrtdisaggError, UnavailableError
from trtdisagg.protocol.answers import FinishReason, PromptTokensDetails, Usage
from trtdisagg.protocol.handover import Ticket
from trtdisagg.protocol.spec import Stats
from trtdisagg.text.detokenizer import Detokenizer
from trtdisagg.text.stop import StopStrings
from trtdisagg.text.tokenizer import Tokenizer


class Engine(Protocol):
    """What is asked of an executor."""

    def enqueue_request(self, request: Request) -> int: ...
    def cancel_request(self, request_id: int) -> None: ...
    def stats(self) -> Stats: ...
    def health(self) -> str | None: ...
    def pulse(self) -> Pulse: ...


class Piece(msgspec.Struct, frozen=True):
    """The next part of an answer. The last one has a finish reason."""

    text: str
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    """The stop string or stop token of the request that ended it."""


class Answer:
    """The text of one answer, token by token.

    :param job: tokens that it comes with are taken in first.
    """

    def __init__(self, job: Job, tokenizer: Tokenizer) -> None:
        self._job = job
        prompt = job.request.prompt_token_ids
        self._detokenizer = Detokenizer(tokenizer, prompt, skip_special_tokens=job.skip_special_tokens)
        self._stops = StopStrings(job.stops, include=job.include_stop)
        self._num_to_skip = job.num_chars_sent
        self.token_ids: list[int] = []
        self.num_cached_tokens = 0
        self.begin = self.push(job.request.output_token_ids)
        """What the tokens that came with the job say and the client does not have."""

    @property
    def usage(self) -> Usage:
        num_prompt, num_output = len(self._job.request.prompt_token_ids), len(self.token_ids)
        return Usage(
            prompt_tokens=num_prompt,
            completion_tokens=num_output,
            total_tokens=num_prompt + num_output,
            prompt_tokens_details=PromptTokensDetails(self.num_cached_tokens) if self.num_cached_tokens else None,
        )

    def push(self, token_ids: Sequence[int]) -> Piece:
        """Take tokens. With stop strings one at a time, so that those behind a match are not counted."""
        text = ""
        for batch in [[t] for t in token_ids] if self._job.stops else [token_ids]:
            self.token_ids += batch
            passed, stop = self._stops.push(self._detokenizer.push(batch))
            text += passed
            if stop is not None:
                return Piece(self._unsent(text), "stop", stop)
        return Piece(self._unsent(text))

    def end(self, reason: FinishReason, stop_token_id: int | None) -> Piece:
        """No more tokens come: what was held back comes out, and may complete a stop string."""
        text, stop = self._stops.push(self._detokenizer.flush())
        if stop is not None:
            return Piece(self._unsent(text), "stop", stop)
        wanted = stop_token_id in self._job.request.sampling.stop_token_ids
        return Piece(self._unsent(text + self._stops.flush()), reason, stop_token_id if wanted else None)

    def take(self, outputs: list[Output]) -> Piece:
        """Take what the engine gave.

        :raises TrtdisaggError: when it failed.
        """
        text = ""
        for output in outputs:
            _raise_if_failed(output)
            self.num_cached_tokens = max(self.num_cached_tokens, output.num_cached_tokens)
            piece = self._take(output)
            text += piece.text
            if piece.finish_reason:
                return msgspec.structs.replace(piece, text=text)
        return Piece(text)

    def _take(self, output: Output) -> Piece:
        tokens, hidden = output.new_token_ids, []
        if output.stop_token_id is not None and not self._job.include_stop:
            tokens, hidden = tokens[:-1], tokens[-1:]
        piece = self.push(tokens)
        if piece.finish_reason:
            return piece
        self.token_ids += hidden  # a token that ends the answer counts, but is not said
        if output.finish_reason is None or output.finish_reason == "not_finished":
            return msgspec.structs.replace(piece, finish_reason=output.finish_reason)
        end = self.end(output.finish_reason, output.stop_token_id)
        return msgspec.structs.replace(end, text=piece.text + end.text)

    def _unsent(self, text: str) -> str:
        skipped = min(self._num_to_skip, len(text))
        self._num_to_skip -= skipped
        return text[skipped:]


class Running:
    """A job in the engine.

    :param mailbox: None when the tokens that came with the job end it already.
    """

    def __init__(self, answer: Answer, mailbox: Mailbox | None) -> None:
        self.answer = answer
        self.engine_has_it = mailbox is not None
        """The engine computes it, or holds its blocks."""
        self._mailbox = mailbox
        self._begin = answer.begin
        self._ticket: Ticket | None = None

    async def next(self) -> Piece:
        """Wait for the next piece: some text, or the last one, which may have none.

        :raises TrtdisaggError: when the engine failed.
        """
        if self._mailbox is None:
            return self._begin
        while True:
            outputs = await self._mailbox.take()
            self._ticket = outputs[-1].ticket
            self.engine_has_it = outputs[-1].finish_reason is None or self._ticket is not None
            piece = self.answer.take(outputs)
            text, self._begin = self._begin.text + piece.text, Piece("")
            if text or piece.finish_reason:
                return msgspec.structs.replace(piece, text=text)

    def hand_over(self) -> Ticket:
        """Let the holder of the ticket decide from now on how long the engine holds the blocks."""
        assert self._ticket is not None
        self.engine_has_it = False
        return self._ticket


@contextlib.contextmanager
def running(job: Job, tokenizer: Tokenizer, engine: Engine, delivery: Delivery) -> Iterator[Running]:
    """Have the engine work on a job, for as long as somebody wants its answer.

    :raises RequestError: when the engine can never serve it.
    :raises OverloadedError: when its queue is full.
    """
    answer = Answer(job, tokenizer)
    if answer.begin.finish_reason:
        yield Running(answer, None)
        return
    with delivery.mailbox(job.request.id) as mailbox:
        engine.enqueue_request(job.request)
        running_job = Running(answer, mailbox)
        try:
            yield running_job
        finally:
            if running_job.engine_has_it:  # a stop string ended it, or the client has left
                engine.cancel_request(job.request.id)


def _raise_if_failed(output: Output) -> None:
    if output.finish_reason == "error":
        raise TrtdisaggError(output.error or "The engine failed to compute this request")
    if output.finish_reason == "cancelled":
        raise UnavailableError("The server is shutting down")
