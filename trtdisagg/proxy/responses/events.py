"""The events of a streamed chat as those of a streamed response. Pure: bytes of the one in, bytes of the other out.

created, in_progress
  output_item.added, content_part.added, output_text.delta ..., output_text.done, content_part.done, output_item.done
  output_item.added, function_call_arguments.delta ..., function_call_arguments.done, output_item.done
completed | incomplete | failed
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace

from trtdisagg.protocol.responses import OutputCall, OutputItem, OutputMessage, OutputText, Response, ResponseError
from trtdisagg.protocol.tools import ToolCallDelta
from trtdisagg.proxy.responses import said
from trtdisagg.proxy.responses.said import Logprobs, Usage

_END = b"\n\n"
_DATA = b"data:"
_DONE = b"[DONE]"

_encode = msgspec.json.Encoder().encode


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    message: str = ""


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


class Events:
    """
    :param blank: the response before there is anything in it.
    """

    def __init__(self, blank: Response) -> None:
        self._blank = blank
        self._rest = b""
        self._num_events = 0
        self._items: list[OutputItem] = []
        self._text: list[str] | None = None
        """Of the message that is open."""
        self._logprobs: list[msgspec.Raw] = []
        self._arguments: list[str] | None = None
        """Of the call that is open."""
        self._reason: str | None = None
        self._usage: Usage | None = None
        self._has_ended = False

    def begin(self) -> bytes:
        return b"".join(self._event(f"response.{name}", response=self._blank) for name in ("created", "in_progress"))

    def feed(self, data: bytes) -> bytes:
        """
        :param data: of the chat's stream; it may end anywhere, and its lines in either way.
        """
        *events, self._rest = (self._rest + data).replace(b"\r\n", b"\n").split(_END)
        return b"".join(made for event in events for made in self._take(event))

    def fail(self, error: bytes) -> bytes:
        """
        :param error: the body of an error answer.
        """
        return b"".join(self._fail(_decode(error).error or _Error()))

    # --- what comes -------------------------------------------------------------------------------------------------

    def _take(self, event: bytes) -> Iterator[bytes]:
        data = _data_of(event)
        if self._has_ended or not data:
            return
        if data == _DONE:
            yield from self._end()
            return
        try:
            chunk = _decode(data)
        except msgspec.DecodeError as e:
            chunk = _Chunk(error=_Error(f"What a server said cannot be read: {e}"))
        if chunk.error is not None:
            yield from self._fail(chunk.error)
            return
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices:
            self._reason = choice.finish_reason or self._reason
            yield from self._say(choice.delta.content or "", choice.logprobs)
            for call in choice.delta.tool_calls or ():
                yield from self._call(call)

    def _say(self, text: str, logprobs: Logprobs | None) -> Iterator[bytes]:
        shown = (logprobs.content or []) if logprobs else []
        if not text and not (shown and self._text is not None):
            return
        if self._text is None:
            yield from self._close("completed")
            yield from self._open_message()
        assert self._text is not None
        self._text.append(text)
        self._logprobs += shown
        yield self._event("response.output_text.delta", **self._of_text(), delta=text, logprobs=shown)

    def _call(self, call: ToolCallDelta) -> Iterator[bytes]:
        if call.id is not None:
            yield from self._close("completed")
            self._arguments = []
            item = OutputCall(
                id=said.call_item_id(call.id),
                call_id=call.id,
                name=call.function.name or "",
                arguments="",
                status="in_progress",
            )
            yield self._open(item)
        if call.function.arguments and self._arguments is not None:
            self._arguments.append(call.function.arguments)
            yield self._event(
                "response.function_call_arguments.delta", **self._of_item(), delta=call.function.arguments
            )

    def _end(self) -> Iterator[bytes]:
        yield from self._close(said.item_status(self._reason))
        self._has_ended = True
        whole = said.ended(self._blank, self._items, self._reason, self._usage)
        yield self._event(f"response.{whole.status}", response=whole)

    def _fail(self, error: _Error) -> Iterator[bytes]:
        yield from self._close("incomplete")
        self._has_ended = True
        whole = said.ended(self._blank, self._items, None, self._usage)
        whole = replace(whole, status="failed", error=ResponseError(message=error.message))
        yield self._event("response.failed", response=whole)

    # --- items ------------------------------------------------------------------------------------------------------

    def _open(self, item: OutputItem) -> bytes:
        self._items.append(item)
        return self._event("response.output_item.added", output_index=len(self._items) - 1, item=item)

    def _open_message(self) -> Iterator[bytes]:
        self._text, self._logprobs = [], []
        yield self._open(OutputMessage(id=self._message_id(), status="in_progress", content=[]))
        yield self._event("response.content_part.added", **self._of_text(), part=OutputText(text=""))

    def _close(self, status: Any) -> Iterator[bytes]:
        """End the item that is open, if one is."""
        if self._text is not None:
            part = OutputText(text="".join(self._text), logprobs=self._logprobs)
            where, self._text = self._of_text(), None
            yield self._event("response.output_text.done", **where, text=part.text, logprobs=part.logprobs)
            yield self._event("response.content_part.done", **where, part=part)
            yield self._done(replace(self._items[-1], content=[part], status=status))
        elif self._arguments is not None:
            arguments, self._arguments = "".join(self._arguments), None
            yield self._event("response.function_call_arguments.done", **self._of_item(), arguments=arguments)
            yield self._done(replace(self._items[-1], arguments=arguments, status=status))

    def _done(self, item: OutputItem) -> bytes:
        self._items[-1] = item
        return self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)

    def _message_id(self) -> str:
        """A second message behind a call has a number of its own."""
        number = sum(isinstance(item, OutputMessage) for item in self._items)
        return said.message_id(self._blank.id) + (f"_{number}" if number else "")

    def _of_item(self) -> dict[str, Any]:
        return {"item_id": self._items[-1].id, "output_index": len(self._items) - 1}

    def _of_text(self) -> dict[str, Any]:
        return {**self._of_item(), "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._num_events += 1
        body = {"type": kind, "sequence_number": self._num_events - 1, **fields}
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(body))


def _data_of(event: bytes) -> bytes:
    """Its one line of JSON; nothing, where it is a comment. In a text there may be anything but the end of a line."""
    lines = (line for line in event.split(b"\n") if line.startswith(_DATA))
    return next(lines, b"").removeprefix(_DATA).strip()
