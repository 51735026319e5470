"""What the head knows of one other node, and what it has to say to it.

    awaited -> here <-> away -> lost -> here        away: its connection is gone, and what it has goes on
                 \\______________/                   lost: too long; all it had counts as ended

Messages for a node that is away are kept for it. Knows nothing of sockets or tasks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from trtdisagg.protocol.nodes import Bye, Hello, Leaving, Left, Noticed, ToHead, ToNode
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nodes.greeting import RefusedError
from trtdisagg.supervisor.nodes.node import Node
from trtdisagg.supervisor.nodes.session import Session
from trtdisagg.supervisor.nodes.stream import Wake
from trtdisagg.supervisor.processes import LostError

State = Literal["awaited", "here", "away", "lost"]

_encode = msgspec.msgpack.Encoder().encode


class Process(Protocol):
    """A process on another node; see `remote`."""

    def heard(self, message: ToHead) -> None: ...

    def lost(self, why: str) -> None: ...


class Connection(Protocol):
    def cancel(self) -> None: ...


class Link:
    """
    :param timeout_s: without a word for so long, the node is lost.
    :param on_notice: called with what people should know of the node.
    :param on_back: called when it is there again after it was lost.
    :param on_leaving: called with the reason when it is about to go.
    :param on_lost: called when it is gone, before what it had ends.
    :ivar node: as it came last; None: it has not come yet.
    :ivar processes: those it runs, by their names.
    """

    def __init__(
        self,
        name: str,
        *,
        timeout_s: float,
        on_notice: Callable[[str], None],
        on_back: Callable[[], None],
        on_leaving: Callable[[str], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.name = name
        self.state: State = "awaited"
        self.node: Node | None = None
        self.processes: dict[str, Process] = {}
        self.session = Session()
        self.wake = Wake()
        self.why_lost = ""
        self.is_dismissed = False
        self.is_leaving = False
        self._connection: Connection | None = None
        self._session_id = ""
        self._timeout_s = timeout_s
        self._silent_s = 0.0
        self._on_notice = on_notice
        self._on_back = on_back
        self._on_leaving = on_leaving
        self._on_lost = on_lost

    @property
    def is_usable(self) -> bool:
        """Whether anything can be started there."""
        return self.state in ("here", "away") and not self.is_dismissed

    @property
    def is_staying(self) -> bool:
        """Whether it makes sense to start anything there."""
        return self.is_usable and not self.is_leaving

    def send(self, message: ToNode) -> None:
        """Say something to the node, now or when it is back.

        :raises LostError: when it is lost, or has not come.
        """
        if not self.is_usable:
            raise LostError(self.why_lost or f"{self.name} has {'to leave' if self.is_dismissed else 'not come'}")
        self.session.send(_encode(message))
        self.wake.set()

    def dismiss(self, exit_code: int, reason: str) -> None:
        """Have the node agent end, with all it still has; nothing is started there any more."""
        with contextlib.suppress(LostError):
            self.send(Bye(exit_code=exit_code, reason=reason))
        self.is_dismissed = True

    # --- it comes and goes ------------------------------------------------------------------------------------------

    def open(self, hello: Hello, connection: Connection) -> None:
        """A node agent comes, or comes back.

        :raises RefusedError: when it is not wanted.
        """
        is_same = hello.session == self._session_id and self.state != "lost"
        if self.state == "here" and not is_same:
            raise RefusedError(f"a node agent of {self.name} is here already: there can be one only")
        if not hello.is_new and not is_same:
            raise RefusedError(f"{self.name} was away for too long: what ran there counts as ended")
        if not is_same:
            self._begin(hello)
        elif self._connection is not None:
            self._connection.cancel()  # it has given that one up
        else:
            self._on_notice(f"{self.name} is back")
        self.state, self._connection = "here", connection
        self.heard()

    def _begin(self, hello: Hello) -> None:
        """One that runs nothing of ours; so what was there before is gone."""
        if self.state == "away":
            self._lose("is lost: its node agent has started anew")
        was_lost, self.is_dismissed, self.is_leaving = self.state == "lost", False, False
        self._session_id = hello.session
        self.session = Session()
        self.node = Node(name=self.name, address=hello.address, host=msgspec.msgpack.decode(hello.host, type=Host))
        if was_lost:
            self._on_notice(f"{self.name} is there again")
            self.state = "here"
            self._on_back()

    def closed(self, connection: Connection, why: str) -> None:
        """A connection is over; one that another has taken the place of does not matter."""
        if connection is not self._connection:
            return
        self.state, self._connection = "away", None
        if self.is_dismissed:
            self._lose("has left")
        else:
            self._on_notice(f"{self.name} is away: {why}")

    def heard(self) -> None:
        """It lives."""
        self._silent_s = 0.0

    def passed(self, seconds: float) -> None:
        """Time has passed in which the head could hear."""
        if self.state not in ("here", "away"):
            return
        self._silent_s += seconds
        if self._silent_s >= self._timeout_s:
            self._lose(f"is lost: no word from it for {self._timeout_s:g} s")

    def _lose(self, why: str) -> None:
        """:param why: goes on after its name."""
        self.state, self._connection, connection = "lost", None, self._connection
        if connection is not None:
            connection.cancel()
        self.why_lost = f"{self.name} {why}"
        self._on_notice(self.why_lost)
        self._on_lost()
        processes, self.processes = self.processes, {}
        for process in processes.values():
            process.lost(self.why_lost)

    # --- what it says -----------------------------------------------------------------------------------------------

    def handle(self, message: ToHead) -> None:
        match message:
            case Leaving(reason=reason):
                self.is_leaving = True
                self._on_leaving(reason)
            case Left(reason=reason):
                self._lose(f"has left: {reason}")
            case Noticed(text=text):
                self._on_notice(f"{self.name}: {text}")
            case _:
                if (process := self.processes.get(message.process)) is not None:
                    process.heard(message)
