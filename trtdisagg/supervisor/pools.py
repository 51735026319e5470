"""Which ranks share a memory, and so how large the KV cache of each new server is. Pure.

    free for new servers = free now + what those hold that leave or start again
                                    - what those that stay have not taken yet

Servers that stay keep their pools. One that loads, or has not filled its pool yet, holds less than it was planned to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from trtdisagg.config.sizes import GIB
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.claims import Memory, Spot
from trtdisagg.supervisor.division import Divided
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.memory import Pool, Room, size_pool
from trtdisagg.supervisor.server_plan import dtype_of
from trtdisagg.supervisor.slots import Slot


class Beside(msgspec.Struct, kw_only=True, frozen=True):
    """The servers that run while new ones are planned."""

    going: list[ChildPlan] = []
    """They leave, or start again: the new ones get their memory."""
    staying: list[ChildPlan] = []
    resident: Mapping[str, int] | None = None
    """Bytes that each of both holds on this host now; None: all that it was planned to. What is free on other nodes is
    what was when their agents started, before there were any servers."""
    here: str = ""
    """This host's name among the nodes."""

    def more_bytes(self, memory: Memory) -> int:
        """What will be free beyond what is free now; negative: less."""
        freed = sum(self._held(child, memory) for child in self.going)
        return freed - sum(bytes_on(child, memory) - self._held(child, memory) for child in self.staying)

    def _held(self, child: ChildPlan, memory: Memory) -> int:
        planned_bytes = bytes_on(child, memory)
        if self.resident is None:
            return planned_bytes
        return min(planned_bytes, self.resident.get(child.name, 0)) if memory[0] == self.here else 0


def size_pools(
    new: Sequence[Slot],
    spots: Mapping[str, Spot],
    hosts: Mapping[str, Host],
    models: Mapping[str, Divided],
    beside: Beside,
) -> dict[str, Pool]:
    """The KV cache of each new server: ranks on one GPU, or on the CPU of one node, share its memory.

    :param hosts: by name of the node.
    :raises ConfigError: when a section asks for what does not go together.
    :raises StartupError: when there is too little memory.
    """
    weights: dict[Memory, list[int]] = {}
    for slot in new:
        for memory, num_bytes in zip(spots[slot.name].memories, rank_weights(slot, models[slot.name]), strict=True):
            weights.setdefault(memory, []).append(num_bytes)
    rooms = {memory: _room(memory, mine, hosts[memory[0]], beside) for memory, mine in weights.items()}
    return {slot.name: _pool(slot, models[slot.name], [rooms[m] for m in spots[slot.name].memories]) for slot in new}


def rank_weights(slot: Slot, model: Divided) -> list[int]:
    return model.rank_weights(dtype_of(slot.section, slot.path), slot.section.quantization)


def _pool(slot: Slot, model: Divided, rooms: Sequence[Room]) -> Pool:
    return size_pool(slot.name, slot.section, model, dtype_of(slot.section, slot.path), rooms)


def bytes_on(child: ChildPlan, memory: Memory) -> int:
    """What a server holds of a memory for as long as it runs."""
    return on_place(child, child.rank_bytes, memory)


def on_place(child: ChildPlan, rank_bytes: Sequence[int], memory: Memory) -> int:
    """Sum over the ranks of a server that are in a memory."""
    return sum(size for size, place in zip(rank_bytes, child.memories, strict=False) if place == memory)


def _room(memory: Memory, weights: Sequence[int], host: Host, beside: Beside) -> Room:
    node, gpu = memory
    more_bytes = beside.more_bytes(memory)
    on_gpu = next((min(g.total_bytes, g.free_bytes + more_bytes) for g in host.gpus if g.id == gpu), 0)
    free_bytes = host.memory_bytes + more_bytes if gpu is None else on_gpu
    return Room(
        where=_where(node, gpu),
        free_bytes=max(0, free_bytes),
        weight_bytes=sum(weights),
        num_ranks=len(weights),
        on_gpu=gpu is not None,
    )


def _where(node: str, gpu: str | None) -> str:
    if gpu is None:
        return f"on {node or 'this host'}"
    return f"on GPU {gpu} of {node}" if node else f"on GPU {gpu}"


def pool_notices(new: Sequence[Slot], pools: Mapping[str, Pool]) -> Iterator[str]:
    """One line for each section: its servers' pools are alike."""
    for path in dict.fromkeys(slot.path for slot in new):
        slot = next(slot for slot in new if slot.path == path)
        pool = pools[slot.name]
        if pool.notice:
            yield f"{path}: {pool.notice}"
        if pool.num_bytes is not None and slot.section.kv_cache_config.max_tokens is None:
            num_tokens = pool.num_blocks * slot.section.kv_cache_config.tokens_per_block
            ranks = f" in {len(pool.rank_bytes or [])} ranks" if len(pool.rank_bytes or []) > 1 else ""
            size = f"{pool.num_bytes / GIB:.2f} GiB ({num_tokens} tokens{ranks})"
            yield f"{path}: the KV cache of each server has {size}; kv_cache_config.max_tokens sets another size"
