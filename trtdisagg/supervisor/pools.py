"""Which servers share a memory, and so how large the KV cache of each new one is. Pure.

    free for new servers = free now + what those hold that leave or start again
                                    - what those that stay have not taken yet

Servers that stay keep their pools. One that loads, or has not filled its pool yet, holds less than it was planned to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from trtdisagg.supervisor.claims import Spot
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.memory import Pool, Room, size_pool
from trtdisagg.supervisor.server_plan import ChildPlan, dtype_of
from trtdisagg.supervisor.slots import Slot
from trtdisagg.text.dimensions import ModelDimensions

_GIB = 1024**3


class Beside(msgspec.Struct, kw_only=True, frozen=True):
    """The servers that run while new ones are planned."""

    going: list[ChildPlan] = []
    """They leave, or start again: the new ones get their memory."""
    staying: list[ChildPlan] = []
    resident: Mapping[str, int] | None = None
    """Bytes that each of both holds now; None: all that it was planned to."""

    def more_bytes(self, gpus: Sequence[str]) -> int:
        """What will be free on GPUs, or on the host, beyond what is free now; negative: less."""
        freed = sum(self._held(child) for child in self.going if child.gpus == gpus)
        return freed - sum(weights_and_pool(child) - self._held(child) for child in self.staying if child.gpus == gpus)

    def _held(self, child: ChildPlan) -> int:
        planned_bytes = weights_and_pool(child)
        return planned_bytes if self.resident is None else min(planned_bytes, self.resident.get(child.name, 0))


def size_pools(
    new: Sequence[Slot],
    spots: Mapping[str, Spot],
    host: Host,
    dimensions: Mapping[str, ModelDimensions | None],
    beside: Beside,
) -> dict[str, Pool]:
    """The KV cache of each new server: those on one GPU, or on the CPU, share its memory.

    :param dimensions: of each server's model.
    :raises ConfigError: when a section asks for what does not go together.
    :raises StartupError: when there is too little memory.
    """
    groups: dict[tuple[str, ...], list[Slot]] = {}
    for slot in new:
        groups.setdefault(tuple(spots[slot.name].gpus), []).append(slot)
    pools = {}
    for gpus, group in groups.items():
        room = _room(list(gpus), group, host, dimensions, beside)
        for slot in group:
            dtype = dtype_of(slot.section, slot.path)
            pools[slot.name] = size_pool(slot.name, slot.section, dimensions[slot.name], dtype, room)
    return pools


def weights_and_pool(child: ChildPlan) -> int:
    """Bytes that a server holds for as long as it runs."""
    return child.weight_bytes + (child.pool_bytes or 0)


def weight_bytes(slot: Slot, model: ModelDimensions | None) -> int:
    section = slot.section
    return model.weight_bytes(dtype_of(section, slot.path), section.quantization) if model else 0


def _room(
    gpus: list[str],
    group: Sequence[Slot],
    host: Host,
    dimensions: Mapping[str, ModelDimensions | None],
    beside: Beside,
) -> Room:
    more_bytes = beside.more_bytes(gpus)
    there = [gpu for gpu in host.gpus if gpu.id in gpus]
    on_gpus = min((min(gpu.total_bytes, gpu.free_bytes + more_bytes) for gpu in there), default=0)
    free_bytes = on_gpus if gpus else host.memory_bytes + more_bytes
    return Room(
        where=f"on GPU {', '.join(gpus)}" if gpus else "on this host",
        free_bytes=max(0, free_bytes),
        weight_bytes=sum(weight_bytes(slot, dimensions[slot.name]) for slot in group),
        num_servers=len(group),
        on_gpu=bool(gpus),
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
            size = f"{pool.num_bytes / _GIB:.2f} GiB ({num_tokens} tokens)"
            yield f"{path}: the KV cache of each server has {size}; kv_cache_config.max_tokens sets another size"
