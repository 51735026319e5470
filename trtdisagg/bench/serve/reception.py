"""An answer on its way: bytes of a body become times, counts and text. Knows no sockets and no clock.

Events are read line by line, wherever the stream is cut into pieces and whether lines end in LF or CR LF. Data of
several lines, which JSON never needs, is not put together.
"""

from __future__ import annotations

from typing import Any

import msgspec

from trtdisagg.bench.serve.outcome import Outcome

MAX_ANSWER_BYTES = 64 << 20
"""Of what is not streamed, and of a line; more is not an answer."""
MAX_MESSAGE_CHARS = 300


class NotAnAnswerError(Exception):
    """What came cannot be counted.

    :param kind: for all that fail like this.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Said(msgspec.Struct, gc=False):
    """A message, or what is new in it."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: Any = None


class _Choice(msgspec.Struct, gc=False):
    text: str | None = None
    delta: _Said | None = None
    message: _Said | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Piece(msgspec.Struct, gc=False):
    """A whole answer, or an event of a stream, of either endpoint, as far as it is counted."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Piece).decode


class Streamed:
    """Takes the body of a stream.

    :param leave_after: the client leaves with this token; None: it stays.
    :ivar has_left: it is to leave now.
    :ivar is_prompt: it is to see each token as it comes.
    """

    def __init__(self, outcome: Outcome, *, leave_after: int | None = None, keeps_text: bool = False) -> None:
        self.has_left = False
        self.is_prompt = leave_after is not None
        self._outcome = outcome
        self._leave_after = leave_after
        self._texts: list[str] | None = [] if keeps_text else None
        self._kept = b""
        """The beginning of a line."""
        self._is_begun = self._is_finished = False
        self._is_told = False
        """The server says with each chunk how many tokens there are."""

    def take(self, body: bytes, at: float) -> None:
        """
        :param at: when it came.
        :raises NotAnAnswerError: it is not an answer.
        """
        lines = (self._kept + body if self._kept else body).split(b"\n")
        self._kept = lines.pop()
        if len(self._kept) > MAX_ANSWER_BYTES:
            raise NotAnAnswerError("not an answer", f"a line of more than {MAX_ANSWER_BYTES >> 20} MiB")
        for line in lines:
            if line.startswith(b"data:"):
                self._hear(line[5:].strip(), at)

    def end(self, at: float) -> str:  # noqa: ARG002
        """The stream is complete.

        :returns: its text, where that is kept.
        :raises NotAnAnswerError: it ended too early.
        """
        if not self._is_begun:
            raise NotAnAnswerError(
                "not an answer", "a stream was asked for, and what came has no events (--no-stream asks for none)"
            )
        if not self._is_finished:
            raise NotAnAnswerError("cut off", "the stream ended without [DONE] or a finish_reason")
        if not self._outcome.heard_at:
            raise NotAnAnswerError("empty answer", "the stream ended without a token")
        return "".join(self._texts or [])

    def _hear(self, data: bytes, at: float) -> None:
        self._is_begun = True
        if data == b"[DONE]":
            self._is_finished = True
            return
        piece = _read(data)
        has_tokens = False
        for choice in piece.choices or ():
            if choice.text or (choice.delta is not None and _says(choice.delta)):
                has_tokens = True
                if self._texts is not None:
                    self._texts.append(choice.text or (choice.delta and choice.delta.content) or "")
            if choice.finish_reason is not None:
                self._is_finished = True
        if piece.usage is not None:
            self._outcome.num_input_tokens = piece.usage.prompt_tokens
        if piece.usage is not None and piece.usage.completion_tokens:  # some say 0 until they know
            self._count(piece.usage.completion_tokens, piece, at, has_tokens=has_tokens)
        elif has_tokens:
            self._arrived(self._outcome.num_seen + 1, at, is_told=False)

    def _count(self, num_tokens: int, piece: _Piece, at: float, *, has_tokens: bool) -> None:
        """The server says how many there are: in each chunk, in the last, or in one of its own behind it."""
        outcome = self._outcome
        outcome.num_output_tokens = num_tokens
        self._is_told = self._is_told or not self._is_finished
        if self._is_told or not outcome.heard_at:
            if piece.choices and num_tokens > outcome.num_seen:
                self._arrived(num_tokens, at, is_told=True)
        elif has_tokens:
            self._arrived(outcome.num_seen + 1, at, is_told=False)

    def _arrived(self, num_tokens: int, at: float, *, is_told: bool) -> None:
        outcome = self._outcome
        outcome.heard_at.append(at)
        outcome.num_by.append(num_tokens)
        outcome.ended_at = at
        if not is_told:
            outcome.num_guessed += 1
        if self._leave_after is not None and num_tokens >= self._leave_after:
            self.has_left = True


class Whole:
    """Takes the body of an answer that is not streamed."""

    has_left = False
    is_prompt = True

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._pieces: list[bytes] = []
        self._num_bytes = 0

    def take(self, body: bytes, at: float) -> None:  # noqa: ARG002
        self._num_bytes += len(body)
        if self._num_bytes > MAX_ANSWER_BYTES:
            raise NotAnAnswerError("not an answer", f"it is longer than {MAX_ANSWER_BYTES >> 20} MiB")
        self._pieces.append(body)

    def end(self, at: float) -> str:
        piece = _read(b"".join(self._pieces))
        if not piece.choices:
            raise NotAnAnswerError("empty answer", "it has no choices")
        self._outcome.ended_at = at
        if piece.usage is not None:
            self._outcome.num_output_tokens = piece.usage.completion_tokens
            self._outcome.num_input_tokens = piece.usage.prompt_tokens
        first = piece.choices[0]
        return first.text or (first.message and first.message.content) or ""

    def bytes(self) -> bytes:
        return b"".join(self._pieces)


def _read(data: bytes) -> _Piece:
    try:
        piece = _decode(data)
    except msgspec.MsgspecError as e:
        raise NotAnAnswerError("not an answer", f"{e}: {data[:MAX_MESSAGE_CHARS].decode(errors='replace')!r}") from None
    if piece.error is not None:
        raise NotAnAnswerError("error event", message_of(data))
    return piece


def _says(delta: _Said) -> bool:
    return bool(delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls)


def message_of(body: bytes) -> str:
    """What an error says, in whichever form."""
    try:
        said = msgspec.json.decode(body)
    except msgspec.DecodeError:
        said = None
    while isinstance(said, dict):
        said = said.get("error", said.get("message", said.get("detail")))
    text = said if isinstance(said, str) else body.decode(errors="replace")
    return " ".join(text.split())[:MAX_MESSAGE_CHARS]
