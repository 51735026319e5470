"""The head's side of all other nodes: where their agents come to, who is there, who is lost.

async with NodeLinks(...) as nodes:         listens; on exit the node agents are told to end
    await nodes.announce(directory, ...)    where they find it, as long as one is missing
    others = await nodes.gather(timeout_s)  all have come, with what they have
    nodes.process(node, ...)                a process there
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import msgspec
from msgspec.structs import replace

from trtdisagg.errors import StartupError, TrtdisaggError
from trtdisagg.net import join_address
from trtdisagg.protocol.nodes import Hello, Start, ToHead, Welcome
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nodes.greeting import RefusedError, admit
from trtdisagg.supervisor.nodes.link import Link
from trtdisagg.supervisor.nodes.node import Node
from trtdisagg.supervisor.nodes.remote import RemoteProcess
from trtdisagg.supervisor.nodes.rendezvous import Rendezvous, stay_findable
from trtdisagg.supervisor.nodes.stream import Stream, StreamError, exchange, passing

BEATS_PER_TIMEOUT = 10
"""Signs of life within the time after which a node is lost."""
_BYE_TIMEOUT_S = 5.0
"""For the node agents to hear that they are to end."""

_decoder: msgspec.msgpack.Decoder[ToHead] = msgspec.msgpack.Decoder(ToHead)


class NodeLinks:
    """
    :param here: name of the head's own node.
    :param names: of all nodes, the head's own among them or not.
    :param address: of this node, which the others reach; it listens there, on a free port.
    :param secret: of this run, as in a secret_file: nobody comes in without it, and servers use it among themselves.
    :param digest: of the assignment of servers to nodes, as the head has computed it.
    :param file: the cluster file it has computed that from.
    :param timeout_s: a node without a word for so long is lost (`supervision.node_timeout_s`).
    :ivar port: where it listens.
    :ivar on_notice: called with what people should know; to be set by whoever tells them.
    :ivar on_leaving: called with the name of a node that is about to go, and why; until it is set, such a node may.
    :ivar on_back: called with the name of a node that is there again after it was lost.
    :ivar on_lost: called with the name of a node that is gone, before what it had ends.
    :ivar exit_code: what the node agents end with when the head does.
    """

    def __init__(
        self,
        here: str,
        names: Sequence[str],
        *,
        address: str,
        secret: bytes,
        digest: str,
        file: str,
        timeout_s: float = 10.0,
    ) -> None:
        self.here = here
        self.address = address
        self.secret = secret
        self.port = 0
        self.on_notice: Callable[[str], None] = lambda _: None
        self.on_leaving: Callable[[str, str], None] = self.dismiss
        self.on_back: Callable[[str], None] = lambda _name: None
        self.on_lost: Callable[[str], None] = lambda _name: None
        self.exit_code = 1
        self._digest = digest
        self._file = file
        self._timeout_s = timeout_s
        self._beat_s = timeout_s / BEATS_PER_TIMEOUT
        self._links = {name: self._link(name) for name in names if name != here}
        self._refused: dict[str, str] = {}
        """Why a node of ours was, by name."""
        self._last_refusal = ""
        """Of anybody: one that does not know the secret may be a node of ours, or may not."""
        self._changed = anyio.Event()
        self._is_closing = False

    def _link(self, name: str) -> Link:
        return Link(
            name,
            timeout_s=self._timeout_s,
            on_notice=lambda text: self.on_notice(text),  # noqa: PLW0108 (it may be set later)
            on_back=lambda: self.on_back(name),
            on_leaving=lambda reason: self.on_leaving(name, reason),
            on_lost=lambda: self.on_lost(name),
        )

    async def __aenter__(self) -> NodeLinks:
        """
        :raises StartupError: when the address is not this node's.
        """
        try:
            self._listener = await anyio.create_tcp_listener(local_host=self.address)
        except OSError as e:
            raise StartupError(f"The head cannot listen on {self.address}: {e.strerror or e}") from e
        self.port = self._listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 (not Django's)
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        self._tasks.start_soon(self._accept)
        self._tasks.start_soon(self._watch_time)
        return self

    async def __aexit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, TrtdisaggError):
            self.exit_code = error.exit_code
        self._is_closing = True
        with anyio.CancelScope(shield=True):
            await self._say_bye("the head goes down")
        self._tasks.cancel_scope.cancel()
        try:
            await self._tasks.__aexit__(None, None, None)
        finally:
            await anyio.aclose_forcefully(self._listener)

    # --- where they find it -----------------------------------------------------------------------------------------

    async def announce(self, directory: Path, where: Rendezvous) -> None:
        """From now on, have node agents find this head whenever one is missing.

        :raises StartupError: when the directory cannot be written now.
        """
        await self._tasks.start(functools.partial(stay_findable, self, directory, where))

    @property
    def is_complete(self) -> bool:
        """Whether no node is missing, or none is wanted any more."""
        return self._is_closing or all(link.state == "here" for link in self._links.values())

    async def until(self, is_so: Callable[[], bool]) -> None:
        """Wait until something holds that follows from the coming and going of nodes."""
        while not is_so():
            await self._changed.wait()

    # --- the nodes --------------------------------------------------------------------------------------------------

    async def gather(self, timeout_s: float) -> list[Node]:
        """Wait until the agents of all other nodes have come.

        :returns: those nodes, in the order of their names at the beginning.
        :raises StartupError: when one has not come in time, or is of another cluster; names it.
        """
        with anyio.move_on_after(timeout_s):
            while missing := self._missing():
                for name in missing:
                    if name in self._refused:
                        raise StartupError(self._refused[name])
                await self._changed.wait()
            return self.others
        refused = f"; one was refused: {self._last_refusal}" if self._last_refusal else ""
        raise StartupError(
            f"Within {timeout_s:g} s no node agent has come from {', '.join(self._missing())}; "
            f"the head listens on {join_address(self.address, self.port)}{refused}"
        )

    def _missing(self) -> list[str]:
        return [name for name, link in self._links.items() if link.node is None]

    @property
    def others(self) -> list[Node]:
        """All other nodes that have ever come, as they are now, in the order of their names at the beginning."""
        return [replace(link.node, is_here=link.is_staying) for link in self._links.values() if link.node is not None]

    def all_nodes(self, host: Host) -> list[Node]:
        """All nodes that servers are started on, this one first.

        :param host: this node, as it is now.
        """
        return [Node(name=self.here, address=self.address, host=host), *self.others]

    def has_left(self, name: str) -> bool:
        """Whether nothing can be started on a node any more: it is lost, or about to go."""
        return name != self.here and not self._links[name].is_staying

    def address_of(self, name: str) -> str:
        """Where a node's servers are reached."""
        if name == self.here:
            return self.address
        node = self._links[name].node
        assert node is not None, f"{name} has never come"
        return node.address

    def process(self, name: str, process: str, start: Callable[[], Start], **callbacks: Any) -> RemoteProcess:
        """A process on another node, not yet started.

        :param process: its name, which no other of this run ever has.
        :param callbacks: see `RemoteProcess`.
        """
        return RemoteProcess(self._links[name], process, start, **callbacks)

    def dismiss(self, name: str, reason: str) -> None:
        """Nothing of ours runs on a node that is about to go: it may."""
        self._links[name].dismiss(0, reason)

    # --- connections ------------------------------------------------------------------------------------------------

    async def _accept(self) -> None:
        """Until cancelled, whatever becomes of one connection, or of the descriptors for a while."""
        while True:
            try:
                await self._listener.serve(self._serve, self._tasks)
            except* OSError as e:
                self.on_notice(f"node agents cannot come in: {e.exceptions[0]}")
            await anyio.sleep(self._beat_s)

    async def _serve(self, socket: anyio.abc.SocketStream) -> None:
        """One connection, from its first word to its end."""
        with anyio.CancelScope() as connection:
            async with Stream(socket) as stream:
                try:
                    hello = await admit(stream, self.secret, functools.partial(self._let_in, connection))
                except RefusedError as e:
                    self._last_refusal = e.message
                    self.on_notice(f"a node agent was refused: {e.message}")
                except StreamError as e:
                    self._close(connection, str(e))
                else:
                    self._close(connection, await self._talk(stream, self._links[hello.node], hello.received))

    async def _talk(self, stream: Stream, link: Link, received: int) -> str:
        return await exchange(
            stream,
            link.session,
            link.wake,
            other_received=received,
            beat_s=self._beat_s,
            decoder=_decoder,
            handle=link.handle,
            on_word=functools.partial(self._heard, link),
        )

    def _heard(self, link: Link) -> None:
        link.heard()
        self._tell_change()

    def _close(self, connection: anyio.CancelScope, why: str) -> None:
        for link in self._links.values():
            link.closed(connection, why)
        self._tell_change()

    def _let_in(self, connection: anyio.CancelScope, hello: Hello) -> Welcome:
        """
        :raises RefusedError: one that is not wanted.
        """
        link = self._links.get(hello.node)
        if link is None:
            raise RefusedError(f"{hello.node} is none of this run's nodes ({', '.join(self._links)})")
        try:
            if link.node is None:  # one that comes back carries out what is planned, whatever its file says by now
                self._check_digest(hello)
            link.open(hello, connection)
        except RefusedError as e:
            self._refused[hello.node] = e.message
            raise
        finally:
            self._tell_change()
        return Welcome(received=link.session.num_received, timeout_s=self._timeout_s, proof=b"")

    def _check_digest(self, hello: Hello) -> None:
        if hello.digest != self._digest:
            raise RefusedError(
                f"{hello.node} would put other servers on the nodes by {hello.file} (digest {hello.digest}) than the "
                f"head by {self._file} (digest {self._digest}): all nodes need the same cluster file and release"
            )

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def _watch_time(self) -> None:
        async for passed_s in passing(self._beat_s):
            for link in self._links.values():
                link.passed(passed_s)
            self._tell_change()

    # --- the end ----------------------------------------------------------------------------------------------------

    async def _say_bye(self, reason: str) -> None:
        self.on_notice = lambda _: None  # that they leave is no news now
        for link in self._links.values():
            link.dismiss(self.exit_code, reason)
        with anyio.move_on_after(_BYE_TIMEOUT_S):
            await self.until(
                lambda: all(link.state != "here" or link.session.has_all_arrived for link in self._links.values())
            )
