"""What a model says, as it comes -> text for the client, and calls of tools.

How the text is cut into pieces makes no difference to what comes out, put together. The beginning of a call is held
back until its name is known and its arguments begin; these are passed on as they come. What looks like a call and is
none becomes text again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator
from typing import TypeAlias

from trtdisagg.protocol.tools import ToolCall
from trtdisagg.text.tools.extent import Extent, State
from trtdisagg.text.tools.format import ToolFormat
from trtdisagg.text.tools.said import Said, ToolPiece
from trtdisagg.text.tools.whole import FIRST_KEYS, whole_call

_STRING = r'("(?:[^"\\]|\\.)*")'
_HEAD = re.compile(rf'\{{\s*"name"\s*:\s*{_STRING}\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{{)')
_FIRST_KEY = re.compile(rf"\{{\s*{_STRING}\s*:")
_NO_KEY = re.compile(r'\{\s*[^"\s]')
_NAME_FIRST = re.compile(r"\s*([\w.:/-]+)\s*(?:\[CALL_ID\]\w+\s*)?(?:\[ARGS\])?\s*")
_MAX_NAME_CHARS = 256
_SPACE = re.compile(r"\s*")
_OPENING = re.compile(r"\s*\[?\s*")
_BETWEEN = re.compile(r"[\s,;]*")
_CLOSING = re.compile(r"[\s,]*\]")

_Parser: TypeAlias = Generator[None, None, None]
_Answer: TypeAlias = Generator[None, None, bool]
"""Parsers yield when they need more text."""


class ToolStream:
    """
    :param key: of the answer, the same wherever it goes on: makes the ids of calls.
    :param max_calls: further ones are dropped.
    """

    def __init__(self, form: ToolFormat, key: str, *, max_calls: int | None = None) -> None:
        self._form = form
        self._said = Said(key, num_id_chars=form.num_id_chars, max_calls=max_calls)
        self._text = ""
        """What has come and is not yet understood."""
        self._held = ""
        """What stood before it, to be said after all when this is no call."""
        self._has_ended = False
        self._parser = self._parse()
        next(self._parser)

    @property
    def calls(self) -> list[ToolCall]:
        """All calls so far; of the last one the arguments may still go on."""
        return self._said.calls

    def push(self, text: str) -> ToolPiece:
        """Take the next piece of the answer's text."""
        self._text += text
        next(self._parser, None)
        return self._said.take()

    def flush(self) -> ToolPiece:
        """No more text comes."""
        self._has_ended = True
        next(self._parser, None)
        return self._said.take()

    def _take(self, num: int) -> str:
        taken, self._text = self._text[:num], self._text[num:]
        return taken

    def _say_held(self) -> None:
        self._said.say(self._held)
        self._held = ""

    def _put_back(self) -> None:
        self._text = self._held + self._text
        self._held = ""

    # --- text and calls ---------------------------------------------------------------------------------------------

    def _parse(self) -> _Parser:
        if self._form.starts_bare and (yield from self._is_bare()):
            yield from self._calls_in_json()
        while (yield from self._is_call_announced()):
            if self._form.names_first:
                yield from self._call_with_name_first()
            else:
                yield from self._calls_in_json()

    def _is_bare(self) -> _Answer:
        """Whether the answer begins with an object."""
        yield from self._hold(_SPACE)
        if self._text.startswith("{"):
            return True
        self._put_back()
        return False

    def _is_call_announced(self) -> _Answer:
        """Say what is text; ends behind the next announcement of a call, or at the end of all."""
        begin = self._form.begin
        while (at := self._text.find(begin)) < 0:
            self._said.say(self._take(len(self._text) - self._num_suspicious()))
            if self._has_ended:
                if self._text.strip() or not self._said.num_calls:
                    self._said.say(self._take(len(self._text)))
                return False
            yield
        num = len(self._text[:at].rstrip())
        self._said.say(self._take(num))
        self._held = self._take(at - num + len(begin))
        return True

    def _num_suspicious(self) -> int:
        """Length of the end that may be the beginning of an announcement, with the white space before it."""
        begin, text = self._form.begin, self._text
        num = next((n for n in range(min(len(begin) - 1, len(text)), 0, -1) if begin.startswith(text[-n:])), 0)
        return len(text) - len(text[: len(text) - num].rstrip())

    def _hold(self, pattern: re.Pattern[str]) -> _Parser:
        """Put what fits the pattern aside; behind it is what does not fit, or the end of all."""
        while (match := pattern.match(self._text)) and match.end() == len(self._text) and not self._has_ended:
            yield
        self._held += self._take(match.end() if match else 0)

    def _calls_in_json(self) -> _Parser:
        num_before = self._said.num_calls
        yield from self._hold(_OPENING)
        while self._text.startswith("{"):
            if not (yield from self._call()):
                self._say_held()
                return
            self._held = ""
            yield from self._hold(_BETWEEN)
        if self._said.num_calls == num_before:
            self._say_held()
            return
        self._put_back()
        yield from self._closing()

    def _closing(self) -> _Parser:
        """Drop the end of a list and the mark at the end, where they are."""
        end = self._form.end
        while True:
            match = _CLOSING.match(self._text)
            num = match.end() if match else 0
            rest = self._text[num:].lstrip()
            if self._has_ended or rest.startswith(end) or not end.startswith(rest):
                break
            yield
        self._take(num)
        if end and rest.startswith(end):
            self._text = rest[len(end) :]

    # --- one call ---------------------------------------------------------------------------------------------------

    def _call(self) -> _Answer:
        """One object: whether it was a call."""
        extent, at = Extent(stop=self._form.end), 0
        while True:
            if match := _HEAD.match(self._text):
                return (yield from self._call_with_head(match))
            if self._is_something_else():
                return False
            at, state = extent.advance(self._text, at)
            if state is State.ENDS:
                return self._whole_call(at)
            if state is State.BROKEN_OFF or self._has_ended:
                return False
            yield

    def _is_something_else(self) -> bool:
        if match := _FIRST_KEY.match(self._text):
            return match[1][1:-1] not in FIRST_KEYS
        return _NO_KEY.match(self._text) is not None

    def _call_with_head(self, match: re.Match[str]) -> _Answer:
        try:
            name = json.loads(match[1], strict=False)
        except ValueError:
            return False
        self._said.begin_call(name)
        self._take(match.end())
        if (yield from self._arguments()) is State.ENDS:
            yield from self._rest_of_call()
        return True

    def _whole_call(self, num: int) -> bool:
        call = whole_call(self._text[:num])
        if call is not None:
            self._take(num)
            self._said.begin_call(call[0])
            self._said.add_arguments(call[1])
        return call is not None

    def _arguments(self) -> Generator[None, None, State]:
        extent = Extent(stop=self._form.end)
        while True:
            at, state = extent.advance(self._text, 0)
            self._said.add_arguments(self._take(at))
            if state is not State.GOES_ON:
                return state
            if self._has_ended:
                self._text = ""  # the beginning of the mark at the end, or of an escape
                return state
            yield

    def _rest_of_call(self) -> _Parser:
        extent = Extent(depth=1, stop=self._form.end)
        while True:
            at, state = extent.advance(self._text, 0)
            self._take(at)
            if state is not State.GOES_ON or self._has_ended:
                return
            yield

    def _call_with_name_first(self) -> _Parser:
        while (at := self._text.find("{")) < 0 and len(self._text) <= _MAX_NAME_CHARS and not self._has_ended:
            yield
        match = _NAME_FIRST.fullmatch(self._text[:at]) if 0 <= at <= _MAX_NAME_CHARS else None
        if match is None:
            self._say_held()
            return
        self._held = ""
        self._said.begin_call(match[1])
        self._take(at)
        yield from self._arguments()
