"""What a node agent has to say to its head: kept while the head is away, and bounded.

a beat     is left out while the head is away: the next one says the same and more
a line     is left out when too much is kept already; how many were is said before the next one that is not
the rest   is always kept: it is little, and the head would not know without it what is so
"""

from __future__ import annotations

import msgspec

from trtdisagg.protocol.nodes import Line, Reported, ToHead
from trtdisagg.protocol.reports import Beat
from trtdisagg.supervisor.nodes.session import Session
from trtdisagg.supervisor.nodes.stream import Wake

MAX_KEPT_BYTES = 16 * 1024 * 1024

_encode = msgspec.msgpack.Encoder().encode


class Outbox:
    """
    :ivar is_open: whether the head hears what is said.
    """

    def __init__(self, session: Session, wake: Wake, *, max_bytes: int = MAX_KEPT_BYTES) -> None:
        self.is_open = False
        self._session = session
        self._wake = wake
        self._max_bytes = max_bytes
        self._num_left_out: dict[str, int] = {}
        """Lines, by process."""

    def say(self, message: ToHead) -> None:
        match message:
            case Line(process=process, line=line):
                self._say_line(process, line)
            case Reported(report=Beat()) if not self.is_open:
                pass
            case _:
                self._send(message)

    def _say_line(self, process: str, line: bytes) -> None:
        if self._session.num_kept_bytes + len(line) > self._max_bytes:
            self._num_left_out[process] = self._num_left_out.get(process, 0) + 1
            return
        if number := self._num_left_out.pop(process, 0):
            text = f"[{number} lines are left out here: the head did not take them in time]\n"
            self._send(Line(process=process, line=text.encode()))
        self._send(Line(process=process, line=line))

    def _send(self, message: ToHead) -> None:
        self._session.send(_encode(message))
        self._wake.set()
