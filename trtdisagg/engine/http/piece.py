"""What is said of an answer at one moment. Pieces of one answer can be put together, up to the whole of it."""

from __future__ import annotations

import msgspec

from trtdisagg.engine.http.tokens import Said
from trtdisagg.protocol.answers import FinishReason
from trtdisagg.protocol.tools import ToolCallDelta


class Piece(msgspec.Struct, frozen=True):
    """The next part of an answer. The last one has a finish reason."""

    index: int
    """Which of the job's answers."""
    text: str = ""
    tokens: list[Said] = []
    """Where they are shown: those whose text ends in this piece."""
    calls: list[ToolCallDelta] = []
    """One of each call at most."""
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    """The stop string or stop token of the request that ended it."""

    def __add__(self, more: Piece) -> Piece:
        return Piece(
            self.index,
            self.text + more.text,
            self.tokens + more.tokens,
            join_calls(self.calls, more.calls),
            more.finish_reason,
            more.stop_reason,
        )


def join_calls(before: list[ToolCallDelta], more: list[ToolCallDelta]) -> list[ToolCallDelta]:
    """Pieces of calls, in order; what both have of one call is one piece."""
    if not (before and more and before[-1].index == more[0].index):
        return before + more
    first, second = before[-1], more[0]
    arguments = f"{first.function.arguments or ''}{second.function.arguments or ''}"
    function = msgspec.structs.replace(first.function, arguments=arguments)
    return [*before[:-1], msgspec.structs.replace(first, function=function), *more[1:]]
