"""Divides memory among the ranks of servers: how many KV blocks each server gets. Pure.

    free memory of the host or GPU = weights of each rank on it + KV pools + what is left alone

    pool of a rank = min(free_gpu_memory_fraction x (free - all weights) / ranks,  max_tokens, or 2 GiB on a CPU)

The ranks of a server have as many blocks as the one with the least memory. A pool holds at least one request of
max_seq_len tokens, or the server is not started.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trtdisagg.config.server_keys import ServerSection
from trtdisagg.config.sizes import GIB
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.supervisor.division import Divided
from trtdisagg.text.dimensions import ModelDimensions
from trtdisagg.text.dimensions.share import kv_bytes_per_token_of_rank

CPU_POOL_BYTES = 2 * 1024**3
"""Upper bound of a server's pools on a CPU where the file gives no `max_tokens`: the host is not ours alone."""

UNKNOWN_MODEL_BLOCKS = 1024
UNKNOWN_MODEL_SEQ_LEN = 2048
"""For programs of the user's own (`command`) with a model that is not here."""


class Room(msgspec.Struct, kw_only=True, frozen=True):
    """The memory that a rank shares with others."""

    where: str
    """`on this host`, `on GPU 0`."""
    free_bytes: int
    weight_bytes: int
    """Of all the ranks that share it."""
    num_ranks: int
    on_gpu: bool

    def share(self, fraction: float) -> int:
        """What one rank's pool may take."""
        return max(0, int(fraction * (self.free_bytes - self.weight_bytes) / self.num_ranks))


class Pool(msgspec.Struct, kw_only=True, frozen=True):
    """The KV cache of one server."""

    num_blocks: int
    """Of each rank."""
    rank_bytes: list[int] | None
    """None: the model's dimensions are not known."""
    max_seq_len: int
    notice: str | None = None

    @property
    def num_bytes(self) -> int | None:
        return None if self.rank_bytes is None else sum(self.rank_bytes)


def size_pool(server: str, section: ServerSection, divided: Divided, dtype: str, rooms: Sequence[Room]) -> Pool:
    """Decide the size of a server's KV cache, and the longest request it takes.

    :param rooms: the memory that each rank is in.
    :raises ConfigError: when the file asks for what does not go together.
    :raises StartupError: when one request does not fit into the memory there is.
    """
    config, model = section.kv_cache_config, divided.dimensions
    max_seq_len, notice = _max_seq_len(server, section, model)
    num_needed = -(-max_seq_len // config.tokens_per_block)
    if model is None:
        num_blocks = -(-config.max_tokens // config.tokens_per_block) if config.max_tokens else UNKNOWN_MODEL_BLOCKS
        return Pool(num_blocks=max(num_blocks, num_needed), rank_bytes=None, max_seq_len=max_seq_len, notice=notice)
    block_bytes = [
        kv_bytes_per_token_of_rank(model, dtype, divided.parallel, rank) * config.tokens_per_block
        for rank in range(len(rooms))
    ]
    most = [room.share(config.free_gpu_memory_fraction) // size for room, size in zip(rooms, block_bytes, strict=True)]
    if min(most) < num_needed:
        rank = most.index(min(most))
        name = server if len(rooms) == 1 else f"{server} rank {rank}"
        raise StartupError(_too_little(name, section, max_seq_len, num_needed * block_bytes[rank], rooms[rank]))
    wanted = _wanted_blocks(section, num_needed, sum(block_bytes), rooms[0])
    num_blocks = min(most if wanted is None else [wanted, *most])
    rank_bytes = [num_blocks * size for size in block_bytes]
    return Pool(num_blocks=num_blocks, rank_bytes=rank_bytes, max_seq_len=max_seq_len, notice=notice)


def _max_seq_len(server: str, section: ServerSection, model: ModelDimensions | None) -> tuple[int, str | None]:
    trained = model.max_positions if model else UNKNOWN_MODEL_SEQ_LEN
    wanted, max_tokens = section.max_seq_len, section.kv_cache_config.max_tokens
    if wanted is not None:
        if model is not None and wanted > trained:
            raise ConfigError(f"{server}: max_seq_len {wanted} is more than the {trained} the model was trained for")
        if max_tokens is not None and wanted > max_tokens:
            raise ConfigError(
                f"{server}: max_seq_len {wanted} does not fit into kv_cache_config.max_tokens {max_tokens}"
            )
        return wanted, None
    if max_tokens is not None and max_tokens < trained:
        return max_tokens, f"{server}: max_seq_len is {max_tokens}, not the model's {trained}, because of max_tokens"
    return trained, None


def _wanted_blocks(section: ServerSection, num_needed: int, block_bytes: int, room: Room) -> int | None:
    """What the server would take of any amount of memory; None: all it gets.

    :param block_bytes: of all ranks.
    """
    config = section.kv_cache_config
    if config.max_tokens is not None:
        return -(-config.max_tokens // config.tokens_per_block)
    return None if room.on_gpu else max(num_needed, CPU_POOL_BYTES // block_bytes)


def _too_little(name: str, section: ServerSection, max_seq_len: int, needed_bytes: int, room: Room) -> str:
    fraction = section.kv_cache_config.free_gpu_memory_fraction
    return (
        f"{name}: too little memory {room.where}: a request of max_seq_len {max_seq_len} needs "
        f"{needed_bytes / GIB:.2f} GiB of KV cache, and there are {room.share(fraction) / GIB:.2f} GiB: "
        f"{fraction:g} of {room.free_bytes / GIB:.2f} GiB free less {room.weight_bytes / GIB:.2f} GiB of weights, "
        f"divided by {room.num_ranks}. Free some memory, lower max_seq_len, or start fewer servers"
    )
