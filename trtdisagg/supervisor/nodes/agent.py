"""The agent of a node that is not the head's: carries out there what the head decides.

    NodeAgent.run
      +- guardian        clears up if we are killed
      +- signals         the first says to the head that this node is about to go, the second kills
      +- ranks           what the head has started here
      +- link            to the head; made again when it is lost, and without it for too long the node ends

It decides nothing, keeps no log and never outlives its head.
"""

from __future__ import annotations

import math
import os
import secrets
import signal
import time
from collections.abc import Callable
from pathlib import Path

import anyio
import msgspec

from trtdisagg.errors import StartupError
from trtdisagg.protocol.nodes import Bye, Hello, Leaving, Left, ToNode, Welcome
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.events import Event, Noticed
from trtdisagg.supervisor.guarded import Guardian
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nodes.greeting import RefusedError, introduce
from trtdisagg.supervisor.nodes.links import BEATS_PER_TIMEOUT
from trtdisagg.supervisor.nodes.outbox import Outbox
from trtdisagg.supervisor.nodes.ranks import Ranks
from trtdisagg.supervisor.nodes.rendezvous import Rendezvous, look
from trtdisagg.supervisor.nodes.session import Session
from trtdisagg.supervisor.nodes.stream import Stream, StreamError, Wake, connect, exchange
from trtdisagg.supervisor.pace import Pace
from trtdisagg.supervisor.rundir import Place

_LISTEN_S = 0.5
"""Between two looks at what processes that are ready report."""
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 1.0
"""Between two tries to reach the head."""
_LAST_WORDS_S = 2.0
"""For the head to take what is still to be said."""
_LOST = 1
"""Exit code of a node agent that has lost its head."""

_decoder: msgspec.msgpack.Decoder[ToNode] = msgspec.msgpack.Decoder(ToNode)


class Membership(msgspec.Struct, kw_only=True, frozen=True):
    """What a node agent says of itself, and where it looks for its head."""

    node: str
    host: Host
    digest: str
    """Of the assignment of servers to nodes, as computed here."""
    file: str
    """The cluster file it was computed from."""
    directory: Path
    """Where the head says where it is."""
    secret: bytes | None = None
    """Of the run, where the cluster file names a `secret_file`; None: the head's, from that directory."""
    address: str | None = None
    """Where servers of this node are reached; None: as the head is reached from here."""
    timeout_s: float = 120.0
    """For the head to be there and to let this node in."""


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
        self._membership = membership
        self._place = place
        self._guardian = guardian
        self._on_event = on_event
        self._session_id = run_id
        self._session = Session()
        self._wake = Wake()
        self._outbox = Outbox(self._session, self._wake)
        self._pace = Pace(_LISTEN_S)
        self._ranks = Ranks(place, run_id, groups=guardian, pace=self._pace.wait, say=self._outbox.say)
        self._head: Rendezvous | None = None
        """The one that has let it in."""
        self._word = Wake()
        self._heard_at = time.monotonic()
        self._timeout_s = membership.timeout_s
        """Without a word of the head."""
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
            for service in (self._guardian.run, self._pace.run, self._take_signals, self._stay_linked):
                tasks.start_soon(service)
            async with self._ranks:
                await self._is_over.wait()
            with anyio.move_on_after(_LAST_WORDS_S):
                await self._say_last_words()
            tasks.cancel_scope.cancel()
        if self._refusal is not None:
            raise self._refusal
        return self._exit_code

    async def _say_last_words(self) -> None:
        self._outbox.say(Left(reason=self._why))
        while self._outbox.is_open and not self._session.has_all_arrived:
            await self._word.wait(_LAST_WORDS_S)

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
                if is_first and self._head is not None:
                    self._on_event(f"{number.name}: the head drains the servers of this node")
                    self._outbox.say(Leaving(reason=number.name))
                else:
                    self._end(_LOST, f"{number.name} a second time")

    # --- the link ---------------------------------------------------------------------------------------------------

    async def _stay_linked(self) -> None:
        """Be in touch with the head until there is none any more."""
        pause_s, why = _FIRST_PAUSE_S, ""
        while self._left_s() > 0:
            try:
                await self._link()
                pause_s = _FIRST_PAUSE_S
            except StreamError as e:
                why = str(e)
            except StartupError as e:
                self._refused(e)
                break
            await anyio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
        else:
            self._given_up(why)
        self._end(_LOST, "the head was gone")

    def _left_s(self) -> float:
        """Until the head counts as gone."""
        return self._heard_at + self._timeout_s - time.monotonic()

    def _refused(self, error: StartupError) -> None:
        if self._head is None:
            self._refusal = error
        else:
            self._on_event(error.message)

    def _given_up(self, why: str) -> None:
        if self._head is not None:
            self._on_event(f"no word from the head for {self._timeout_s:g} s ({why}): what it had here is ended")
            return
        directory = self._membership.directory
        self._refusal = StartupError(
            f"{self._membership.node}: within {self._timeout_s:g} s no head was found: {why}. Is {directory} on a file "
            "system that all nodes share? Name another directory with --rendezvous"
        )

    async def _link(self) -> None:
        """One connection, from its first word to its end.

        :raises StreamError: when there is none.
        :raises StartupError: when the head does not want this node.
        """
        head = self._head or look(self._membership.directory)
        if head is None:
            raise StreamError(f"there is no head.json in {self._membership.directory}")
        with anyio.CancelScope(deadline=anyio.current_time() + self._left_s()) as greeting:
            async with await connect(head.host, head.port) as stream:
                welcome = await self._greet(stream, head)
                greeting.deadline = math.inf
                await self._talk(stream, welcome)
        if greeting.cancelled_caught:
            raise StreamError(f"{head.host}:{head.port} does not answer")

    async def _greet(self, stream: Stream, head: Rendezvous) -> Welcome:
        secret = self._membership.secret or bytes.fromhex(head.secret or "")
        try:
            welcome = await introduce(stream, secret, lambda: self._hello(stream))
        except RefusedError:
            if self._head is None and look(self._membership.directory) != head:
                raise StreamError("the head there was one of an earlier run") from None
            raise
        if self._head is None:
            rundir.write_private(self._place.secret_file, secret)
            self._on_event(f"the head at {head.host}:{head.port} has let {self._membership.node} in")
        self._head, self._timeout_s = head, welcome.timeout_s
        return welcome

    async def _talk(self, stream: Stream, welcome: Welcome) -> None:
        self._session.reopened(welcome.received)
        self._heard()
        self._outbox.is_open = True
        try:
            why = await exchange(
                stream,
                self._session,
                self._wake,
                beat_s=welcome.timeout_s / BEATS_PER_TIMEOUT,
                decoder=_decoder,
                handle=self._handle,
                on_word=self._heard,
            )
        finally:
            self._outbox.is_open = False
            self._word.set()
        if not self._is_over.is_set():
            self._on_event(f"the connection to the head is gone: {why}")

    def _heard(self) -> None:
        self._heard_at = time.monotonic()
        self._word.set()

    def _handle(self, message: ToNode) -> None:
        if self._is_over.is_set():
            return
        if isinstance(message, Bye):
            self._on_event(message.reason)
            self._wake.set()  # the head waits for the word that this has come
            self._end(message.exit_code, "it was told to")
        else:
            self._ranks.handle(message)

    def _hello(self, stream: Stream) -> Hello:
        membership = self._membership
        return Hello(
            node=membership.node,
            address=membership.address or stream.local_host,
            host=msgspec.Raw(msgspec.msgpack.encode(membership.host)),
            digest=membership.digest,
            file=membership.file,
            session=self._session_id,
            is_new=self._head is None,
            received=self._session.num_received,
            pid=os.getpid(),
            nonce=b"",
            proof=b"",
        )
