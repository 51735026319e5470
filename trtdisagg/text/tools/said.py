"""What an answer has come to so far: text, and calls of tools, whole and as what is new since the last look."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from msgspec import structs

from trtdisagg.protocol.tools import FunctionCall, FunctionDelta, ToolCall, ToolCallDelta


class ToolPiece(NamedTuple):
    """What one piece of text gave."""

    content: str
    calls: list[ToolCallDelta]
    """One of each call at most: some clients look at the first only."""


class Said:
    """
    :param key: makes the ids of calls, with their index.
    :param num_id_chars: of an id.
    :param max_calls: further ones are dropped.
    """

    def __init__(self, key: str, *, num_id_chars: int, max_calls: int | None) -> None:
        self._key = key
        self._num_id_chars = num_id_chars
        self._max_calls = max_calls
        self.num_calls = 0
        self._calls: list[ToolCall] = []
        self._arguments: list[list[str]] = []
        self._content: list[str] = []
        self._deltas: list[ToolCallDelta] = []

    @property
    def calls(self) -> list[ToolCall]:
        """All calls so far; of the last one the arguments may still go on."""
        whole = zip(self._calls, self._arguments, strict=True)
        return [structs.replace(c, function=structs.replace(c.function, arguments="".join(a))) for c, a in whole]

    def take(self) -> ToolPiece:
        """What is new."""
        piece = ToolPiece("".join(self._content), self._deltas)
        self._content, self._deltas = [], []
        return piece

    def say(self, text: str) -> None:
        self._content.append(text)

    def begin_call(self, name: str) -> None:
        self.num_calls += 1
        if self._is_kept():
            index = self.num_calls - 1
            call_id = hashlib.blake2b(f"{self._key}/{index}".encode()).hexdigest()[: self._num_id_chars]
            self._calls.append(ToolCall(id=call_id, function=FunctionCall(name=name, arguments="")))
            self._arguments.append([])
            function = FunctionDelta(name=name, arguments="")
            self._deltas.append(ToolCallDelta(index=index, id=call_id, type="function", function=function))

    def add_arguments(self, text: str) -> None:
        if not text or not self._is_kept():
            return
        self._arguments[-1].append(text)
        index = self.num_calls - 1
        if self._deltas and self._deltas[-1].index == index:
            function = self._deltas[-1].function
            function = structs.replace(function, arguments=f"{function.arguments}{text}")
            self._deltas[-1] = structs.replace(self._deltas[-1], function=function)
        else:
            self._deltas.append(ToolCallDelta(index=index, function=FunctionDelta(arguments=text)))

    def _is_kept(self) -> bool:
        return self._max_calls is None or self.num_calls <= self._max_calls
