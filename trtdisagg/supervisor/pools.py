"""Which ranks share a memory, and so how large the KV cache of each new server is. Pure.

    free for new servers = free now + what those hold that leave or start again
                                    - what those that stay have not taken yet

Servers that stay keep their pools. One that loads, or has not filled its pool yet, holds less than it was planned to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from trtdisagg.supervisor.claims import Spot
from trtdisagg.supervisor.division import Divided
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.memory import Pool, Room, size_pool
from trtdisagg.supervisor.server_plan import ChildPlan, dtype_of
from trtdisagg.supervisor.slots import Slot

_GIB = 1024**3


class Beside(msgspec.Struct, kw_only=True, frozen=True):
    """The servers that run while new ones are planned."""

    going: list[ChildPlan] = []
    """They leave, or start again: the new ones get their memory."""
    staying: list[ChildPlan] = []
    resident: Mapping[str, int] | None = None
    """Bytes that each of both holds now; None: all that it was planned to."""

    def more_bytes(self, gpu: str | None) -> int:
        """What will be free on a GPU, or on the host, beyond what is free now; negative: less."""
        freed = sum(self._held(child, gpu) for child in self.going)
        return freed - sum(bytes_on(child, gpu) - self._held(child, gpu) for child in self.staying)

    def _held(self, child: ChildPlan, gpu: str | None) -> int:
        planned_bytes = bytes_on(child, gpu)
        return planned_bytes if self.resident is None else min(planned_bytes, self.resident.get(child.name, 0))


def size_pools(
    new: Sequence[Slot],
    spots: Mapping[str, Spot],
    host: Host,
    models: Mapping[str, Divided],
    beside: Beside,
) -> dict[str, Pool]:
    """The KV cache of each new server: ranks on one GPU, or on the CPU, share its memory.

    :raises ConfigError: when a section asks for what does not go together.
    :raises StartupError: when there is too little memory.
    """
    places = {slot.name: _places(spots[slot.name]) for slot in new}
    weights: dict[str | None, list[int]] = {}
    for slot in new:
        for gpu, num_bytes in zip(places[slot.name], rank_weights(slot, models[slot.name]), strict=True):
            weights.setdefault(gpu, []).append(num_bytes)
    rooms = {gpu: _room(gpu, mine, host, beside) for gpu, mine in weights.items()}
    return {slot.name: _pool(slot, models[slot.name], [rooms[gpu] for gpu in places[slot.name]]) for slot in new}


def _places(spot: Spot) -> list[str | None]:
    """The memory that each rank is in: a GPU's, or with None the host's."""
    return [*spot.gpus] or [None for _ in spot.rank_cores]


def rank_weights(slot: Slot, model: Divided) -> list[int]:
    return model.rank_weights(dtype_of(slot.section, slot.path), slot.section.quantization)


def _pool(slot: Slot, model: Divided, rooms: Sequence[Room]) -> Pool:
    return size_pool(slot.name, slot.section, model, dtype_of(slot.section, slot.path), rooms)


def bytes_on(child: ChildPlan, gpu: str | None) -> int:
    """What a server holds on a GPU, or with None on the host, for as long as it runs."""
    return on_place(child, child.rank_bytes, gpu)


def on_place(child: ChildPlan, rank_bytes: Sequence[int], gpu: str | None) -> int:
    """Sum over the ranks of a server that are on a GPU, or with None on the host."""
    if not child.gpus:
        return 0 if gpu is not None else sum(rank_bytes)
    return sum(size for size, place in zip(rank_bytes, child.gpus, strict=False) if place == gpu)


def _room(gpu: str | None, weights: Sequence[int], host: Host, beside: Beside) -> Room:
    more_bytes = beside.more_bytes(gpu)
    on_gpu = next((min(g.total_bytes, g.free_bytes + more_bytes) for g in host.gpus if g.id == gpu), 0)
    free_bytes = host.memory_bytes + more_bytes if gpu is None else on_gpu
    return Room(
        where="on this host" if gpu is None else f"on GPU {gpu}",
        free_bytes=max(0, free_bytes),
        weight_bytes=sum(weights),
        num_ranks=len(weights),
        on_gpu=gpu is not None,
    )


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
            size = f"{pool.num_bytes / _GIB:.2f} GiB ({num_tokens} tokens{ranks})"
            yield f"{path}: the KV cache of each server has {size}; kv_cache_config.max_tokens sets another size"
