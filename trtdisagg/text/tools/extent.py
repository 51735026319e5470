"""How far an object of JSON reaches in text that comes in pieces. What is in it, it need not be right."""

from __future__ import annotations

import enum
import re

_IN_STRING = re.compile(r'["\\]')


class State(enum.Enum):
    GOES_ON = enum.auto()
    ENDS = enum.auto()
    BROKEN_OFF = enum.auto()
    """What follows ends it, whatever is still open."""


class Extent:
    """
    :param depth: braces and brackets that are open already.
    :param stop: outside of strings, it breaks the object off; begins with no brace or bracket; empty: nothing does.
    """

    def __init__(self, *, depth: int = 0, stop: str = "") -> None:
        self._depth = depth
        self._stop = stop
        self._structure = re.compile(r'[\[\]{}"' + re.escape(stop[:1]) + "]")
        self._is_in_string = False

    def advance(self, text: str, at: int) -> tuple[int, State]:
        """
        :param text: all there is so far.
        :param at: where the last call ended.
        :return: up to where the text belongs to the object for certain.
        """
        state = None
        while state is None:
            at, state = self._string(text, at) if self._is_in_string else self._outside(text, at)
        return at, state

    def _string(self, text: str, at: int) -> tuple[int, State | None]:
        match = _IN_STRING.search(text, at)
        if match is None:
            return len(text), State.GOES_ON
        if match[0] == '"':
            self._is_in_string = False
            return match.end(), None
        if match.end() == len(text):  # a backslash, and not yet what it escapes
            return match.start(), State.GOES_ON
        return match.end() + 1, None

    def _outside(self, text: str, at: int) -> tuple[int, State | None]:
        match = self._structure.search(text, at)
        if match is None:
            return len(text), State.GOES_ON
        if match[0] in "{[":
            self._depth += 1
        elif match[0] in "}]":
            self._depth -= 1
            if self._depth == 0:
                return match.end(), State.ENDS
        elif match[0] == '"':
            self._is_in_string = True
        elif text.startswith(self._stop, match.start()):
            return match.start(), State.BROKEN_OFF
        elif self._stop.startswith(text[match.start() :]):
            return match.start(), State.GOES_ON
        return match.end(), None
