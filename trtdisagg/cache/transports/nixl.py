"""KV by a NIXL agent: host or device memory, within a host and between hosts.

Settings are parameters of the backend, not the environment; a user's UCX_* variables reach UCX as they are, and come
first.

    no progress thread    it would burn a core while idle. A transfer needs the target's help when the two meet, and
                          all along where UCX has no true one-sided access (TCP). So a target looks for such wishes, in
                          a thread that sleeps in between, and only while somebody may have one.
    error handling none   on one host: UCX reads by process_vm_readv from the first byte on, without the target, and a
                          read from a process that died fails at once.
    error handling peer   between hosts: a peer that is lost ends transfers with an error rather than never.
    strict locking        one mutex in NIXL; its calls release the GIL while they wait for it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, ClassVar, Literal

import numpy as np

from trtdisagg.cache.layout import Ints, Runs
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transports.base import check_bounds, name_of
from trtdisagg.cache.transports.nixl_library import load, make_agent
from trtdisagg.errors import HandoverError, StartupError
from trtdisagg.protocol.memory import AgentMemory, Memory, NixlMemory

SERVE_EVERY_S = {True: 0.01, False: 0.001}
"""How often a target looks for what peers want of it, by whether all are on its host: waking a thread for it takes
50 us of CPU, and on one host there is nothing to find where UCX may use process_vm_readv."""
CHECK_EVERY_S = 0.0002
"""How often a transfer that was not done at once is looked after."""
PROBE_TIMEOUT_S = 5.0
ABORT_TIMEOUT_S = 5.0
"""How long UCX may take to see for itself that a peer is gone."""
PROBE_BYTES = 64

Operation = Literal["READ", "WRITE"]


class NixlLink:
    """One remote agent, known to ours."""

    def __init__(self, transport: NixlTransport, memory: AgentMemory) -> None:
        self._transport = transport
        self._memory = memory
        self._give_up_at: float | None = None

    def read(self, runs: Runs) -> None:
        self._move("READ", runs)

    def write(self, runs: Runs) -> None:
        self._move("WRITE", runs)

    def probe(self) -> None:
        """Read a few bytes of the peer's pattern: then the connection is warm, and known to work."""
        self._give_up_at = time.monotonic() + PROBE_TIMEOUT_S
        mine, theirs = self._transport.pool.region, self._memory.region
        self._move("READ", np.array([[mine.sink_offset, theirs.pattern_offset, PROBE_BYTES]], np.int64))
        self._give_up_at = None

    def abort(self) -> None:
        self._give_up_at = time.monotonic() + ABORT_TIMEOUT_S

    def close(self) -> None:
        self._transport.let_go(self._memory)

    def _move(self, operation: Operation, runs: Runs) -> None:
        num_bytes = self._transport.pool.region.num_bytes
        check_bounds(runs, local_bytes=num_bytes, remote_bytes=self._memory.region.num_bytes)
        if len(runs):
            self._transport.move(operation, self._memory, runs, self._must_give_up)

    def _must_give_up(self) -> bool:
        return self._give_up_at is not None and time.monotonic() > self._give_up_at


class NixlTransport:
    """A NIXL agent with our memory registered. Open from `open()` to `close()`.

    :param pool: open until `close`.
    :param agent: the agent's name, another one for each start of a server: peers that know the old one must not take
        the new one for it.
    :param one_host: all peers are on this host.
    """

    memory_type: ClassVar[type[AgentMemory]] = NixlMemory
    can_write: ClassVar[bool] = True

    def __init__(self, pool: KvPool, agent: str, *, one_host: bool, plugin: str = "UCX") -> None:
        self.pool = pool
        self._name = agent
        self._one_host = one_host
        self._plugin = plugin
        self._kind = "DRAM" if pool.device.type == "cpu" else "VRAM"
        self._device_id = pool.device.index or 0
        self._agent: Any = None
        self._registered: Any = None
        self._errors: tuple[type[Exception], ...] = ()
        self._num_links: Counter[str] = Counter()
        """By remote agent."""
        self._links_lock = threading.Lock()
        self._is_serving = threading.Event()
        self._is_closed = False
        self._server = threading.Thread(target=self._serve, name=f"{name_of(self.memory_type)}-serve")

    def open(self) -> None:
        """Make the agent and register our memory.

        :raises StartupError: when NIXL or the plugin is not there, or does not start.
        """
        try:
            _, self._errors = load()
            self._agent = make_agent(self._name, self._plugin, self._parameters())
            region = (self.pool.address, self.pool.region.num_bytes, self._device_id, "")
            self._registered = self._agent.register_memory([region], self._kind)
        except StartupError as e:
            raise StartupError(f"transport {name_of(self.memory_type)}: {e.message}") from e
        except self._errors as e:
            raise StartupError(f"transport {name_of(self.memory_type)}: the KV pool cannot be registered: {e}") from e
        self._server.start()

    def describe(self) -> AgentMemory:
        return self.memory_type(
            plugin=self._plugin,
            agent=self._name,
            metadata=self._agent.get_agent_metadata(),
            base=self.pool.address,
            region=self.pool.region,
            device_id=self._device_id,
            kind=self._kind,
        )

    def connect(self, memory: Memory) -> NixlLink:
        assert isinstance(memory, AgentMemory)
        if memory.plugin != self._plugin:
            raise HandoverError(f"NIXL's plugin is {self._plugin} here and {memory.plugin} there")
        link = NixlLink(self, memory)
        with self._links_lock:
            self._num_links[memory.agent] += 1
        try:
            with self._reported(), self._links_lock:
                if memory.agent != self._name:
                    self._agent.add_remote_agent(memory.metadata)
            link.probe()
        except HandoverError:
            link.close()
            raise
        return link

    def set_serving(self, is_serving: bool) -> None:
        if is_serving:
            self._is_serving.set()
        else:
            self._is_serving.clear()

    def close(self) -> None:
        self._is_closed = True
        self._is_serving.set()
        if self._server.ident is not None:
            self._server.join()
        if self._registered is not None:
            self._agent.deregister_memory(self._registered)
        self._registered = self._agent = None

    def move(self, operation: Operation, memory: AgentMemory, runs: Runs, must_give_up: Callable[[], bool]) -> None:
        """Read or write, and wait.

        :raises HandoverError: when UCX fails, or `must_give_up` and it is still not done.
        """
        with self._reported():
            local = self._descriptors(self._kind, self.pool.address + runs[:, 0], runs[:, 2], self._device_id)
            remote = self._descriptors(memory.kind, memory.base + runs[:, 1], runs[:, 2], memory.device_id)
            handle = self._agent.initialize_xfer(operation, local, remote, memory.agent)
            try:
                self._finish(handle, must_give_up)
            except BaseException:
                self._release(handle)
                self.forget(memory)  # what UCX still had under way to us ends with the connection
                raise
            self._release(handle)

    def let_go(self, memory: AgentMemory) -> None:
        """A link is closed: the last one drops the remote agent. There may be one to read, one to write, and one of a
        connection that was lost."""
        with self._links_lock:
            self._num_links[memory.agent] -= 1
            if not self._num_links[memory.agent]:
                del self._num_links[memory.agent]
                self.forget(memory)

    def forget(self, memory: AgentMemory) -> None:
        """Drop a remote agent and what UCX keeps for it."""
        if memory.agent != self._name:
            with suppress(*self._errors):  # NIXL has dropped it itself when the peer was lost
                self._agent.remove_remote_agent(memory.agent)

    def _parameters(self) -> Mapping[str, str]:
        """Of the backend; plugins take what they know."""
        return {"ucx_error_handling_mode": "none" if self._one_host else "peer"} if self._plugin == "UCX" else {}

    def _descriptors(self, kind: str, addresses: Ints, num_bytes: Ints, device_id: int) -> Any:
        rows = np.column_stack((addresses, num_bytes, np.full_like(addresses, device_id)))
        return self._agent.get_xfer_descs(rows, kind)

    def _release(self, handle: Any) -> None:
        with suppress(*self._errors):
            self._agent.release_xfer_handle(handle)

    def _finish(self, handle: Any, must_give_up: Callable[[], bool]) -> None:
        state = self._agent.transfer(handle)
        while state == "PROC":
            if must_give_up():
                raise HandoverError("nixl: the peer does not answer a read")
            time.sleep(CHECK_EVERY_S)
            state = self._agent.check_xfer_state(handle)
        if state != "DONE":
            raise HandoverError(f"nixl: a read ended in state {state}")

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except self._errors as e:
            raise HandoverError(f"nixl: {e}") from e

    def _serve(self) -> None:
        while True:
            self._is_serving.wait()
            if self._is_closed:
                return
            self._agent.get_new_notifs()
            time.sleep(SERVE_EVERY_S[self._one_host])
