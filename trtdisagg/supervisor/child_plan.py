"""What is planned of one child: a server (`server_plan`), or the proxy (`proxy_plan`).

What only a run knows (incarnation, secret, parent, pipes) is left open in a spec and filled in at the start.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec
from msgspec.structs import replace

from trtdisagg.net import join_address
from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.protocol.spec import EngineSpec, Role
from trtdisagg.supervisor.claims import Memory, memories
from trtdisagg.supervisor.profiling import Profile


class ChildPlan(msgspec.Struct, kw_only=True, frozen=True):
    """One child to start and keep: a server, which is a process for each of its ranks, or the proxy."""

    name: str
    role: Literal[Role, "proxy"]
    spec: EngineSpec | ProxySpec
    """Of a server, that of rank 0; see `rank_plan`."""
    argv: list[str]
    """Without `--spec FILE`, which is added at the start."""
    env: dict[str, str] = {}
    """Added to the environment."""
    gpus: list[str] = []
    """One for each rank, in order; empty: it runs on the CPU."""
    cores: list[int] = []
    """Those of all ranks; empty: not pinned."""
    rank_cores: list[list[int]] = []
    pool_bytes: int | None = None
    """KV cache of all ranks; None: not known, or none."""
    rank_pools: list[int] = []
    """The same of each rank."""
    rank_weights: list[int] = []
    """Bytes of the weights of each rank; 0: not known."""
    profile: Profile | None = None
    """Around the commands of some of its ranks; None: it is not profiled."""
    nodes: list[str] = []
    """The node of each rank, in order; empty: all are on this host."""
    settings: str = ""
    """A digest of what the cluster file says about this child, and of where it runs: with equal ones there is no reason
    to start it again. The role is not in it, since a running server can change that."""

    @property
    def num_ranks(self) -> int:
        return self.spec.parallel.num_ranks if isinstance(self.spec, EngineSpec) else 1

    @property
    def spans_nodes(self) -> bool:
        return len(set(self.nodes)) > 1

    @property
    def memories(self) -> list[Memory]:
        """That of each rank."""
        return memories(self.num_ranks, self.nodes, self.gpus)

    @property
    def gpu_places(self) -> set[Memory]:
        """The GPUs of its ranks, and on which node."""
        return {memory for memory in self.memories if memory[1] is not None}

    @property
    def rank_bytes(self) -> list[int]:
        """Weights and KV cache of each rank, where they are known."""
        pools = self.rank_pools or [0] * len(self.rank_weights)
        return [sum(both) for both in zip(self.rank_weights, pools, strict=True)]

    @property
    def model(self) -> str | None:
        return self.spec.model if isinstance(self.spec, EngineSpec) else None

    @property
    def url(self) -> str:
        """host:port; with port 0 the real one comes with the report that it is ready."""
        return join_address(self.spec.host, self.spec.port)


def in_role(child: ChildPlan, role: Literal[Role, "proxy"]) -> ChildPlan:
    """The plan of a server that has another role now, and is otherwise as it was."""
    if child.role == role:
        return child
    assert isinstance(child.spec, EngineSpec)
    assert role != "proxy"
    return replace(child, role=role, spec=replace(child.spec, role=role))


def digest(*values: object) -> str:
    """See `ChildPlan.settings`."""
    return hashlib.blake2b(msgspec.json.encode(values, order="sorted"), digest_size=8).hexdigest()
