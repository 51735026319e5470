"""NIXL alone: an agent of its own over our pool, with prepared requests and nothing of our transport around it.

On one host, with the settings that are fastest there: no progress thread, no error handling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trtdisagg.cache.layout import Ints, Runs
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transports.nixl_library import make_agent
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.memory import AgentMemory, RankMemory


class BareNixl:
    """See `bare.Bare`. One thread only: NIXL's calls block for the whole copy, and its lock lets in one at a time."""

    def __init__(self, pool: KvPool, name: str) -> None:
        self._pool = pool
        self._agent = make_agent(name, "UCX", {"ucx_error_handling_mode": "none"})
        self._registered = self._agent.register_memory([(pool.address, pool.num_bytes, 0, "")], "DRAM")
        self._peers: dict[int, AgentMemory] = {}
        self._handles: list[Any] = []

    def connect(self, rank: int, memory: RankMemory) -> None:
        for one in memory.memory:
            if isinstance(one, AgentMemory):
                self._agent.add_remote_agent(one.metadata)
                self._peers[rank] = one
                return
        raise HandoverError(f"rank {rank} there does not offer NIXL")

    def prepare(self, planned: Mapping[int, Runs]) -> Callable[[], None]:
        handles = [self._request(self._peers[rank], runs) for rank, runs in planned.items()]
        self._handles += handles

        def work() -> None:
            states = [self._agent.transfer(handle) for handle in handles]
            while "PROC" in states:
                states = [self._agent.check_xfer_state(handle) for handle in handles]
            if set(states) != {"DONE"}:
                raise HandoverError(f"bare nixl: reads ended in states {states}")

        return work

    def close(self) -> None:
        for handle in self._handles:
            self._agent.release_xfer_handle(handle)
        for memory in self._peers.values():
            self._agent.remove_remote_agent(memory.agent)
        self._agent.deregister_memory(self._registered)

    def _request(self, memory: AgentMemory, runs: Runs) -> Any:
        local = self._descriptors(self._pool.address + runs[:, 0], runs[:, 2])
        remote = self._descriptors(memory.base + runs[:, 1], runs[:, 2])
        return self._agent.initialize_xfer("READ", local, remote, memory.agent)

    def _descriptors(self, addresses: Ints, num_bytes: Ints) -> Any:
        return self._agent.get_xfer_descs(np.column_stack((addresses, num_bytes, np.zeros_like(addresses))), "DRAM")
