"""Divides memory among the servers: how many KV blocks each gets. Pure.

    free memory of the host or GPU = weights of each server on it + KV pools + what is left alone

    pool = min(free_gpu_memory_fraction x (free - all weights) / servers,  max_tokens, or 2 GiB on a CPU)

and a pool holds at least one request of max_seq_len tokens, or the server is not started.
"""

from __future__ import annotations

import msgspec

from trtdisagg.config.schema import ServerSection
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.text.dimensions import ModelDimensions

CPU_POOL_BYTES = 2 * 1024**3
"""Upper bound of a pool on a CPU where the file gives no `max_tokens`: not all of the host's memory is ours."""

UNKNOWN_MODEL_BLOCKS = 1024
UNKNOWN_MODEL_SEQ_LEN = 2048
"""For programs of the user's own (`command`) with a model that is not here."""

_GIB = 1024**3


class Room(msgspec.Struct, kw_only=True, frozen=True):
    """The memory that a server shares with others."""

    where: str
    """`on this host`, `on GPU 0`."""
    free_bytes: int
    weight_bytes: int
    """Of all the servers that share it."""
    num_servers: int
    on_gpu: bool

    def share(self, fraction: float) -> int:
        """What one server's pool may take."""
        return max(0, int(fraction * (self.free_bytes - self.weight_bytes) / self.num_servers))


class Pool(msgspec.Struct, kw_only=True, frozen=True):
    """The KV cache of one server."""

    num_blocks: int
    num_bytes: int | None
    """None: the model's dimensions are not known."""
    max_seq_len: int
    notice: str | None = None


def size_pool(server: str, section: ServerSection, model: ModelDimensions | None, dtype: str, room: Room) -> Pool:
    """Decide the size of a server's KV cache, and the longest request it takes.

    :raises ConfigError: when the file asks for what does not go together.
    :raises StartupError: when one request does not fit into the memory there is.
    """
    config = section.kv_cache_config
    max_seq_len, notice = _max_seq_len(server, section, model)
    num_needed = -(-max_seq_len // config.tokens_per_block)
    if model is None:
        num_blocks = -(-config.max_tokens // config.tokens_per_block) if config.max_tokens else UNKNOWN_MODEL_BLOCKS
        return Pool(num_blocks=max(num_blocks, num_needed), num_bytes=None, max_seq_len=max_seq_len, notice=notice)
    block_bytes = model.kv_bytes_per_token(dtype) * config.tokens_per_block
    share_bytes = room.share(config.free_gpu_memory_fraction)
    wanted = _wanted_blocks(section, num_needed, block_bytes, room)
    num_blocks = share_bytes // block_bytes if wanted is None else min(wanted, share_bytes // block_bytes)
    if num_blocks < num_needed:
        raise StartupError(_too_little(server, section, max_seq_len, num_needed * block_bytes, room))
    return Pool(num_blocks=num_blocks, num_bytes=num_blocks * block_bytes, max_seq_len=max_seq_len, notice=notice)


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
    """What the server would take of any amount of memory; None: all it gets."""
    config = section.kv_cache_config
    if config.max_tokens is not None:
        return -(-config.max_tokens // config.tokens_per_block)
    return None if room.on_gpu else max(num_needed, CPU_POOL_BYTES // block_bytes)


def _too_little(server: str, section: ServerSection, max_seq_len: int, needed_bytes: int, room: Room) -> str:
    fraction = section.kv_cache_config.free_gpu_memory_fraction
    return (
        f"{server}: too little memory {room.where}: a request of max_seq_len {max_seq_len} needs "
        f"{needed_bytes / _GIB:.2f} GiB of KV cache, and there are {room.share(fraction) / _GIB:.2f} GiB: "
        f"{fraction:g} of {room.free_bytes / _GIB:.2f} GiB free less {room.weight_bytes / _GIB:.2f} GiB of weights, "
        f"divided by {room.num_servers}. Free some memory, lower max_seq_len, or start fewer servers"
    )
