"""KV by NIXL's UCX backend: host or device memory, within a host and between hosts.

Its settings are parameters of the backend, not the environment; a user's UCX_* variables reach UCX as they are.

    no progress thread    it would burn a core while idle. A read needs the target's help when the two meet, and all
                          along where UCX has no true one-sided access (TCP). So a target looks for such wishes, in a
                          thread that sleeps in between, and only while it holds blocks.
    error handling none   on one host: UCX reads by process_vm_readv from the first byte on, without the target, and a
                          read from a process that died fails at once.
    error handling peer   between hosts: a peer that is lost ends reads with an error rather than never.
    strict locking        one mutex in NIXL; its calls release the GIL while they wait for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

import numpy as np
import torch

from trtdisagg.cache.layout import Ints, Runs
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transports.base import check_bounds
from trtdisagg.errors import HandoverError, StartupError
from trtdisagg.protocol.peers import Memory, NixlMemory

SERVE_EVERY_S = {"none": 0.01, "peer": 0.001}
"""How often a target that holds blocks looks for what peers want of it, by error handling: waking a thread for it takes
50 us of CPU, and on one host there is nothing to find where UCX may use process_vm_readv."""
CHECK_EVERY_S = 0.0002
"""How often a read that was not done at once is looked after."""
PROBE_TIMEOUT_S = 5.0
ABORT_TIMEOUT_S = 5.0
"""How long UCX may take to see for itself that a peer is gone."""
PROBE_BYTES = 64


class NixlLink:
    """One remote agent, known to ours."""

    def __init__(self, transport: NixlTransport, memory: NixlMemory) -> None:
        self._transport = transport
        self._memory = memory
        self._give_up_at: float | None = None

    def read(self, runs: Runs) -> None:
        pool = self._transport.pool
        check_bounds(runs, local_bytes=pool.num_bytes, remote_bytes=self._memory.num_bytes)
        if len(runs):
            self._transport.read(self._memory, pool.address, runs, self._must_give_up)

    def probe(self) -> None:
        """Read a few bytes beside the pool: then the connection is warm, and known to work."""
        self._give_up_at = time.monotonic() + PROBE_TIMEOUT_S
        runs = np.array([[0, 0, PROBE_BYTES]], np.int64)
        self._transport.read(self._memory, self._transport.scratch.data_ptr(), runs, self._must_give_up)
        self._give_up_at = None

    def abort(self) -> None:
        self._give_up_at = time.monotonic() + ABORT_TIMEOUT_S

    def close(self) -> None:
        self._transport.forget(self._memory)

    def _must_give_up(self) -> bool:
        return self._give_up_at is not None and time.monotonic() > self._give_up_at


class NixlTransport:
    """A NIXL agent with our pool registered. Open from `open()` to `close()`.

    :param pool: open until `close`.
    :param agent: the agent's name, another one for each start of a server: peers that know the old one must not take
        the new one for it.
    :param one_host: all peers are on this host.
    """

    memory_type: ClassVar[type[Memory]] = NixlMemory

    def __init__(self, pool: KvPool, agent: str, *, one_host: bool) -> None:
        self.pool = pool
        self.scratch = torch.empty(PROBE_BYTES, dtype=torch.uint8, device=pool.device)
        self._name = agent
        self._error_handling = "none" if one_host else "peer"
        self._kind = "DRAM" if pool.device.type == "cpu" else "VRAM"
        self._device_id = pool.device.index or 0
        self._agent: Any = None
        self._registered: Any = None
        self._errors: tuple[type[Exception], ...] = ()
        self._is_serving = threading.Event()
        self._is_closed = False
        self._server = threading.Thread(target=self._serve, name="nixl-serve")

    def open(self) -> None:
        """Make the agent and register the pool.

        :raises StartupError: when NIXL is not installed or does not start.
        """
        api, self._errors = _load()
        config = api.nixl_agent_config(
            enable_prog_thread=False, backends=[], sync_mode=api.nixl_thread_sync_t.NIXL_THREAD_SYNC_STRICT
        )
        try:
            self._agent = api.nixl_agent(self._name, config)
            self._agent.create_backend("UCX", {"ucx_error_handling_mode": self._error_handling})
            regions = [(self.pool.address, self.pool.num_bytes), (self.scratch.data_ptr(), PROBE_BYTES)]
            self._registered = self._agent.register_memory([(*r, self._device_id, "") for r in regions], self._kind)
        except self._errors as e:
            raise StartupError(f"transport nixl: the UCX backend does not start: {e} (are UCX_* variables set?)") from e
        self._server.start()

    def describe(self) -> NixlMemory:
        return NixlMemory(
            agent=self._name,
            metadata=self._agent.get_agent_metadata(),
            base=self.pool.address,
            num_bytes=self.pool.num_bytes,
            device_id=self._device_id,
            kind=self._kind,
        )

    def connect(self, memory: Memory) -> NixlLink:
        assert isinstance(memory, NixlMemory)
        link = NixlLink(self, memory)
        try:
            with self._reported():
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

    def read(self, memory: NixlMemory, local_base: int, runs: Runs, must_give_up: Callable[[], bool]) -> None:
        """Read and wait.

        :param local_base: what the local offsets of `runs` count from.
        :raises HandoverError: when UCX fails, or `must_give_up` and it is still not done.
        """
        with self._reported():
            local = self._descriptors(self._kind, local_base + runs[:, 0], runs[:, 2], self._device_id)
            remote = self._descriptors(memory.kind, memory.base + runs[:, 1], runs[:, 2], memory.device_id)
            handle = self._agent.initialize_xfer("READ", local, remote, memory.agent)
            try:
                self._finish(handle, must_give_up)
            finally:
                with suppress(*self._errors):
                    self._agent.release_xfer_handle(handle)

    def forget(self, memory: NixlMemory) -> None:
        """Drop a remote agent and what UCX keeps for it."""
        if memory.agent != self._name:
            with suppress(*self._errors):  # NIXL has dropped it itself when the peer was lost
                self._agent.remove_remote_agent(memory.agent)

    def _descriptors(self, kind: str, addresses: Ints, num_bytes: Ints, device_id: int) -> Any:
        rows = np.column_stack((addresses, num_bytes, np.full_like(addresses, device_id)))
        return self._agent.get_xfer_descs(rows, kind)

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
            time.sleep(SERVE_EVERY_S[self._error_handling])


def _load() -> tuple[Any, tuple[type[Exception], ...]]:
    """NIXL's Python module, which takes seconds, and its error classes, which have no base of their own."""
    raise_exceptions = logging.raiseExceptions
    try:
        from nixl import _api, _bindings
    except ImportError as e:
        raise StartupError(f"transport nixl: {e}; install the package nixl, or choose another backend") from e
    # It changes logging for the whole process, and would write to stdout.
    logging.raiseExceptions = raise_exceptions
    logger = logging.getLogger("nixl")
    logger.handlers.clear()
    logger.propagate = True
    logger.setLevel(logging.WARNING)
    errors = (e for e in vars(_bindings).values() if isinstance(e, type) and issubclass(e, Exception))
    return _api, tuple(errors)
