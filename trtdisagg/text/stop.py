"""Finds stop strings in text that comes in pieces, and holds back what may be the beginning of one."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """The result does not depend on how the text is cut into pieces: the string whose match ends first counts, of
    several that end at the same place the longest.

    :param stops: none of them empty.
    :param include: let the matched string itself pass.
    """

    def __init__(self, stops: Sequence[str], *, include: bool = False) -> None:
        assert all(stops)
        self._stops = stops
        self._include = include
        self._max_held = max(map(len, stops), default=1) - 1
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Take the next piece; returns the text that may be passed on, and the stop string that ends it."""
        text = self._held + text
        if match := self._first_match(text):
            end, start, stop = match
            self._held = ""
            return text[: end if self._include else start], stop
        keep = len(text) - self._num_suspicious(text)
        self._held = text[keep:]
        return text[:keep], None

    def flush(self) -> str:
        """No more text comes: returns what was held back."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> tuple[int, int, str] | None:
        found = [(at + len(s), at, s) for s in self._stops if (at := text.find(s)) >= 0]
        return min(found, default=None)

    def _num_suspicious(self, text: str) -> int:
        """Length of the longest end of `text` with which a stop string begins."""
        for num in range(min(self._max_held, len(text)), 0, -1):
            if any(s.startswith(text[-num:]) for s in self._stops):
                return num
        return 0
