"""Which servers share a memory, and so how large the KV cache of each new one is. Pure.

    free for new servers = free now + what those hold that leave or start again

Servers that run and stay keep their pools; their memory is not free now.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from trtdisagg.supervisor.claims import Spot
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.memory import Pool, Room, size_pool
from trtdisagg.supervisor.server_plan import ChildPlan, dtype_of
from trtdisagg.supervisor.slots import Slot
from trtdisagg.text.dimensions import ModelDimensions

_GIB = 1024**3


def size_pools(
    new: Sequence[Slot],
    spots: Mapping[str, Spot],
    host: Host,
    dimensions: Mapping[str, ModelDimensions | None],
    going: Sequence[ChildPlan] = (),
) -> dict[str, Pool]:
    """The KV cache of each new server: those on one GPU, or on the CPU, share its memory.

    :param dimensions: of each server's model.
    :param going: servers that run, and whose memory the new ones get.
    :raises ConfigError: when a section asks for what does not go together.
    :raises StartupError: when there is too little memory.
    """
    groups: dict[tuple[str, ...], list[Slot]] = {}
    for slot in new:
        groups.setdefault(tuple(spots[slot.name].gpus), []).append(slot)
    pools = {}
    for gpus, group in groups.items():
        freed_bytes = sum(weights_and_pool(child) for child in going if tuple(child.gpus) == gpus)
        room = _room(gpus, group, host, dimensions, freed_bytes)
        for slot in group:
            dtype = dtype_of(slot.section, slot.path)
            pools[slot.name] = size_pool(slot.name, slot.section, dimensions[slot.name], dtype, room)
    return pools


def weights_and_pool(child: ChildPlan) -> int:
    """Bytes that a server holds for as long as it runs."""
    return child.weight_bytes + (child.pool_bytes or 0)


def weight_bytes(slot: Slot, model: ModelDimensions | None) -> int:
    return model.weight_bytes(dtype_of(slot.section, slot.path)) if model else 0


def _room(
    gpus: Sequence[str],
    group: Sequence[Slot],
    host: Host,
    dimensions: Mapping[str, ModelDimensions | None],
    freed_bytes: int,
) -> Room:
    on_gpus = min((gpu.free_bytes for gpu in host.gpus if gpu.id in gpus), default=0)
    free_bytes = on_gpus if gpus else host.memory_bytes
    return Room(
        where=f"on GPU {', '.join(gpus)}" if gpus else "on this host",
        free_bytes=free_bytes + freed_bytes,
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
