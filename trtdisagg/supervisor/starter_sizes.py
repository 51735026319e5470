"""How many servers of which size a machine can carry, for a first cluster file. Pure.

What the plan of that file needs is less than what was found free: other work wants memory, too.
"""

from __future__ import annotations

import msgspec

from trtdisagg.config.sizes import GIB
from trtdisagg.errors import StartupError
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.memory import CPU_POOL_BYTES
from trtdisagg.text.dimensions import ModelDimensions

CORES_OF_A_SERVER = 4
"""Fewer make a server slow, and many more do not make it much faster."""
MAX_SERVERS = 8
MIN_SEQ_LEN = 256
_ENOUGH_SEQ_LEN = 2048
"""With less for each request, fewer servers are better."""
_TOKENS_PER_BLOCK = 32
DTYPE = "bfloat16"
"""What servers compute in unless told otherwise."""
_SHARE = 0.8
"""Of the memory that is free."""
_PROCESS_BYTES = 512 * 2**20
"""Of an engine process beside weights and KV cache."""


class Sizes(msgspec.Struct, kw_only=True, frozen=True):
    """What the file will say."""

    num_context: int
    num_generation: int
    max_seq_len: int
    max_tokens: int | None
    """None: on GPUs the servers divide all there is."""


def choose_sizes(host: Host, model: ModelDimensions) -> Sizes:
    """How many servers of which size a machine can carry.

    :raises StartupError: when it cannot carry two.
    """
    return _on_gpus(host, model) if host.gpus else _on_cpu(host, model)


def _on_gpus(host: Host, model: ModelDimensions) -> Sizes:
    """A server for each GPU; a single one is shared by two."""
    num_servers = max(2, len(host.gpus))
    on_each = -(-num_servers // len(host.gpus))
    free_bytes = min(gpu.free_bytes for gpu in host.gpus)
    num_tokens = _num_tokens(free_bytes, on_each, model.weight_bytes(DTYPE), model)
    if num_tokens < MIN_SEQ_LEN:
        raise StartupError(_too_little("a GPU", on_each, free_bytes, model))
    return _sizes(num_servers, min(model.max_positions, num_tokens), None)


def _on_cpu(host: Host, model: ModelDimensions) -> Sizes:
    wanted = min(MAX_SERVERS, max(2, len(host.cores) // CORES_OF_A_SERVER))
    beside_bytes = model.weight_bytes(DTYPE) + _PROCESS_BYTES
    for num_servers in range(wanted, 1, -1):
        num_tokens = _num_tokens(host.memory_bytes, num_servers, beside_bytes, model)
        if num_tokens >= min(model.max_positions, _ENOUGH_SEQ_LEN):
            break
    if num_tokens < min(model.max_positions, MIN_SEQ_LEN):
        raise StartupError(_too_little("this host", 2, host.memory_bytes, model))
    max_seq_len = min(model.max_positions, num_tokens)
    most = CPU_POOL_BYTES // model.kv_bytes_per_token(DTYPE)
    # Rounded to blocks from below, but never below one request.
    max_tokens = max(max_seq_len, min(num_tokens, most) // _TOKENS_PER_BLOCK * _TOKENS_PER_BLOCK)
    return _sizes(num_servers, max_seq_len, max_tokens)


def _num_tokens(free_bytes: int, num_servers: int, beside_bytes: int, model: ModelDimensions) -> int:
    """How much KV each of some servers can hold, in whole blocks."""
    share_bytes = max(0, int(_SHARE * free_bytes) - num_servers * beside_bytes) // num_servers
    return share_bytes // model.kv_bytes_per_token(DTYPE) // _TOKENS_PER_BLOCK * _TOKENS_PER_BLOCK


def _sizes(num_servers: int, max_seq_len: int, max_tokens: int | None) -> Sizes:
    num_context = num_servers // 2
    return Sizes(
        num_context=num_context,
        num_generation=num_servers - num_context,
        max_seq_len=max_seq_len,
        max_tokens=max_tokens,
    )


def _too_little(where: str, num_servers: int, free_bytes: int, model: ModelDimensions) -> str:
    weights = num_servers * model.weight_bytes(DTYPE) / GIB
    return (
        f"too little memory on {where} for {num_servers} servers of this model: {free_bytes / GIB:.1f} GiB are free, "
        f"and the weights alone take {weights:.1f} GiB. Free some, or give a smaller one with --model"
    )
