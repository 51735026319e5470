"""A node agent's link to its head: found, made, made again when it is cut, given up when the head is gone.

    looks for the head -> lets itself in -> carries messages -> (cut) -> comes back -> ... -> the head is gone

What the messages say is not known here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import anyio
import msgspec

from trtdisagg.errors import StartupError
from trtdisagg.protocol.nodes import Hello, ToHead, ToNode, Welcome
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nodes.greeting import RefusedError, introduce
from trtdisagg.supervisor.nodes.links import BEATS_PER_TIMEOUT
from trtdisagg.supervisor.nodes.outbox import Outbox
from trtdisagg.supervisor.nodes.rendezvous import Rendezvous, look
from trtdisagg.supervisor.nodes.session import Session
from trtdisagg.supervisor.nodes.stream import Stream, StreamError, Wake, connect, exchange, passing

_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 1.0
"""Between two tries to reach the head."""
_LOOK_S = 0.5
"""Between two looks at the time."""
_LAST_WORDS_S = 2.0
"""For the head to take what is still to be said."""

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


class HeadLink:
    """
    :param session_id: of this node agent alone.
    :param handle: called with what the head says.
    :param on_let_in: called with the run's secret, before anything else comes.
    :param on_event: called with what happened, in words.
    """

    def __init__(
        self,
        membership: Membership,
        session_id: str,
        *,
        handle: Callable[[ToNode], None],
        on_let_in: Callable[[bytes], None],
        on_event: Callable[[str], None],
    ) -> None:
        self._membership = membership
        self._session_id = session_id
        self._handle = handle
        self._on_let_in = on_let_in
        self._on_event = on_event
        self._session = Session()
        self._wake = Wake()
        self._outbox = Outbox(self._session, self._wake)
        self._head: Rendezvous | None = None
        """The one that has let this node in."""
        self._word = Wake()
        self._silent_s = 0.0
        self._timeout_s = membership.timeout_s
        """Without a word of the head."""

    @property
    def is_let_in(self) -> bool:
        """Whether it ever was."""
        return self._head is not None

    def say(self, message: ToHead) -> None:
        """Say something to the head, now or when it is back; see `Outbox`."""
        self._outbox.say(message)

    async def until_said(self) -> None:
        """Wait until the head has all that was said, or is away, or takes too long."""
        self._wake.set()  # it waits for the word that what it has said came, too
        with anyio.move_on_after(_LAST_WORDS_S):
            while self._outbox.is_open and not self._session.has_all_arrived:
                await self._word.wait(_LAST_WORDS_S)

    async def run(self) -> None:
        """Be in touch with the head until it is gone.

        :raises StartupError: when it was not found, or does not want this node.
        """
        error: StartupError | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_time)
            try:
                await self._stay_in_touch()
            except StartupError as e:
                error = e
            tasks.cancel_scope.cancel()
        if error is not None:
            raise error

    async def _watch_time(self) -> None:
        async for passed_s in passing(_LOOK_S):
            self._silent_s += passed_s

    async def _stay_in_touch(self) -> None:
        pause_s, why = _FIRST_PAUSE_S, ""
        while self._silent_s < self._timeout_s:
            try:
                await self._link(self._timeout_s - self._silent_s)
                pause_s = _FIRST_PAUSE_S
            except StreamError as e:
                why = str(e)
            await anyio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
        if not self.is_let_in:
            raise self._not_found(why)
        self._on_event(f"no word from the head for {self._timeout_s:g} s ({why}): what it had here is ended")

    def _not_found(self, why: str) -> StartupError:
        node, directory = self._membership.node, self._membership.directory
        return StartupError(
            f"{node}: within {self._timeout_s:g} s no head was found: {why}. Is {directory} on a file system that all "
            "nodes share? Name another directory with --rendezvous"
        )

    # --- one connection ---------------------------------------------------------------------------------------------

    async def _link(self, greeting_s: float) -> None:
        """One connection, from its first word to its end.

        :param greeting_s: for the head to let this node in.
        :raises StreamError: when there is none.
        :raises StartupError: when the head does not want this node.
        """
        head = self._head or look(self._membership.directory)
        if head is None:
            where = self._membership.directory
            raise StreamError(f"there is no head.json in {where} (a head that lacks no node has none)")
        with anyio.CancelScope(deadline=anyio.current_time() + greeting_s) as greeting:
            async with await connect(head.host, head.port) as stream:
                welcome = await self._greet(stream, head)
                greeting.deadline = math.inf
                await self._talk(stream, welcome)
        if greeting.cancelled_caught:
            raise StreamError(f"{head.where} does not answer")

    async def _greet(self, stream: Stream, head: Rendezvous) -> Welcome:
        secret = self._membership.secret or bytes.fromhex(head.secret or "")
        try:
            welcome = await introduce(stream, secret, lambda: self._hello(stream))
        except RefusedError:
            if not self.is_let_in and look(self._membership.directory) != head:
                raise StreamError("the head there was one of an earlier run") from None
            raise
        if not self.is_let_in:
            self._on_let_in(secret)
            self._on_event(f"the head at {head.where} has let {self._membership.node} in")
        self._head, self._timeout_s = head, welcome.timeout_s
        return welcome

    async def _talk(self, stream: Stream, welcome: Welcome) -> None:
        self._heard()
        self._outbox.is_open = True
        try:
            why = await exchange(
                stream,
                self._session,
                self._wake,
                other_received=welcome.received,
                beat_s=welcome.timeout_s / BEATS_PER_TIMEOUT,
                decoder=_decoder,
                handle=self._handle,
                on_word=self._heard,
            )
        finally:
            self._outbox.is_open = False
            self._word.set()
        self._on_event(f"the connection to the head is gone: {why}")

    def _heard(self) -> None:
        self._silent_s = 0.0
        self._word.set()

    def _hello(self, stream: Stream) -> Hello:
        membership = self._membership
        return Hello(
            node=membership.node,
            address=membership.address or stream.local_host,
            host=msgspec.Raw(msgspec.msgpack.encode(membership.host)),
            digest=membership.digest,
            file=membership.file,
            session=self._session_id,
            is_new=not self.is_let_in,
            received=self._session.num_received,
            pid=os.getpid(),
            nonce=b"",
            proof=b"",
        )
