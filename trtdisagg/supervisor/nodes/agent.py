"""The agent of a node that is not the head's: carries out there what the head decides.

    NodeAgent.run
      +- guardian        clears up if we are killed
      +- signals         the first says to the head that this node is about to go, the second kills
      +- ranks           what the head has started here
      +- link            to the head; without it for too long the node agent ends

It decides nothing, keeps no log and never outlives its head.
"""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable

import anyio

from trtdisagg.errors import StartupError
from trtdisagg.files import write_whole
from trtdisagg.protocol.nodes import Bye, Leaving, Left, ToNode
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.events import Event, Noticed
from trtdisagg.supervisor.guarded import Guardian
from trtdisagg.supervisor.nodes.head_link import HeadLink, Membership
from trtdisagg.supervisor.nodes.ranks import Ranks
from trtdisagg.supervisor.pace import Pace
from trtdisagg.supervisor.place import Place

_LISTEN_S = 0.5
"""Between two looks at what processes that are ready report."""
_LOST = 1
"""Exit code of a node agent that has lost its head."""


async def run_node_agent(membership: Membership, place: Place, *, on_event: Callable[[str], None]) -> int:
    """Carry out what the head says, until it says that this is over. To be called in the main thread.

    :param place: of this node agent alone.
    :param on_event: called with what happened, in words.
    :returns: exit code of the command: the head's; 1 when the head was lost; 128+N after signal N.
    :raises AlreadyRunningError: when a node agent has this place.
    :raises StartupError: when the head is not found in time, or does not let this node in.
    """
    run_id = secrets.token_hex(8)
    noticed = _words(on_event)
    with rundir.hold(place, run_id) as lock_fd, Guardian(run_id, place, lock_fd, noticed) as guardian:
        return await NodeAgent(membership, place, run_id, guardian, on_event).run()


def _words(on_event: Callable[[str], None]) -> Callable[[Event], None]:
    def on_noticed(event: Event) -> None:
        assert isinstance(event, Noticed)
        on_event(event.text)

    return on_noticed


class NodeAgent:
    """One run of a node agent."""

    def __init__(
        self, membership: Membership, place: Place, run_id: str, guardian: Guardian, on_event: Callable[[str], None]
    ) -> None:
        self._place = place
        self._guardian = guardian
        self._on_event = on_event
        self._pace = Pace(_LISTEN_S)
        self._link = HeadLink(
            membership,
            run_id,
            handle=self._handle,
            on_let_in=lambda secret: write_whole(place.secret_file, secret),
            on_event=self._tell,
        )
        self._ranks = Ranks(place, run_id, groups=guardian, pace=self._pace.wait, say=self._link.say)
        self._signal: signal.Signals | None = None
        self._exit_code, self._why = _LOST, ""
        self._refusal: StartupError | None = None
        self._is_over = anyio.Event()

    async def run(self) -> int:
        """
        :returns: the exit code.
        :raises StartupError: when the head never let it in.
        """
        async with anyio.create_task_group() as tasks:
            for service in (self._guardian.run, self._pace.run, self._take_signals, self._follow):
                tasks.start_soon(service)
            async with self._ranks:
                await self._is_over.wait()
            self._link.say(Left(reason=self._why))
            await self._link.until_said()
            tasks.cancel_scope.cancel()
        if self._refusal is not None:
            raise self._refusal
        return self._exit_code

    def _end(self, exit_code: int, why: str) -> None:
        if not self._is_over.is_set():
            self._exit_code = 128 + self._signal if self._signal else exit_code
            self._why = why
            self._is_over.set()

    async def _take_signals(self) -> None:
        """Until cancelled; the first asks the head to drain what is here."""
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for number in signals:
                is_first, self._signal = self._signal is None, number
                if is_first and self._link.is_let_in:
                    self._tell(f"{number.name}: the head drains the servers of this node")
                    self._link.say(Leaving(reason=number.name))
                else:
                    self._end(_LOST, f"killed by {number.name}")

    async def _follow(self) -> None:
        """The head, until it is gone."""
        try:
            await self._link.run()
        except StartupError as e:
            if self._link.is_let_in:
                self._tell(e.message)
            else:
                self._refusal = e
        self._end(_LOST, "the head was gone")

    def _handle(self, message: ToNode) -> None:
        if self._is_over.is_set():
            return
        if isinstance(message, Bye):
            self._tell(message.reason)
            self._end(message.exit_code, "it was told to")
        else:
            self._ranks.handle(message)

    def _tell(self, text: str) -> None:
        """What happens while it ends is no news."""
        if not self._is_over.is_set():
            self._on_event(text)
