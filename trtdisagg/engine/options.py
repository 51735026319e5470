"""What a program that opens an executor says about it, and the spec that becomes of it. Pure, but for a look at the
model's files and at the cores there are."""

from __future__ import annotations

import os
import uuid
from typing import Literal

import msgspec

from trtdisagg.errors import ConfigError
from trtdisagg.protocol.spec import Dtype, EngineSpec, Quantization, SchedulerPolicy, TransferSpec, Transport
from trtdisagg.text.dimensions import read_dimensions
from trtdisagg.text.model_files import resolve_model

_MAX_KV_TOKENS = 32_768
"""As far as nothing else is said: an hour of talk, and a few GB with a model of 8 billion parameters."""


class EngineOptions(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """An executor in words; what is left out is decided here or by `EngineSpec`."""

    model: str
    """An alias (`smollm2-135m-instruct`), a hub id, a directory with safetensors, or a .gguf file."""
    dtype: Dtype = "bfloat16"
    quantization: Quantization = "none"
    device: Literal["cpu", "cuda"] = "cpu"
    device_ids: list[int] | None = None
    """On a CPU the cores to stay on, None: all there are. With CUDA the index of one device, None: 0."""
    num_threads: int | None = None
    """None: one for each core."""
    max_batch_size: int = 64
    """Requests that run at once."""
    max_num_tokens: int = 2048
    """Tokens computed in one step."""
    max_seq_len: int | None = None
    """Prompt and output together; None: what the model knows, `max_kv_tokens` at most."""
    max_kv_tokens: int = _MAX_KV_TOKENS
    """Tokens of all requests that the KV cache has room for."""
    tokens_per_block: int = 32
    max_queue_size: int = 1024
    """Requests that wait; one more is refused."""
    scheduler_policy: SchedulerPolicy = "max_utilization"
    enable_block_reuse: bool = True
    transports: list[Transport] = []
    """How KV comes and goes, best first: needed by `context_only` and `generation_only` requests."""


def make_spec(options: EngineOptions) -> EngineSpec:
    """
    :raises ConfigError: when an option has no meaning, with its name.
    :raises StartupError: when there is no such model.
    """
    try:
        options = msgspec.convert(msgspec.to_builtins(options), EngineOptions)
    except msgspec.ValidationError as e:
        raise ConfigError(f"EngineOptions: {e}") from e
    cores = _cores(options)
    files = resolve_model(options.model)
    max_seq_len = options.max_seq_len or min(read_dimensions(files).max_positions, options.max_kv_tokens)
    own = {"quantization", "max_batch_size", "max_num_tokens", "tokens_per_block", "max_queue_size", "dtype"}
    own |= {"scheduler_policy", "enable_block_reuse"}
    return EngineSpec(
        cluster="",
        name="executor",
        role="both",
        incarnation=uuid.uuid4().hex,
        model=files.served_name,
        model_path=files.path,
        device=_device(options),
        cores=cores,
        num_threads=options.num_threads or len(cores),
        max_seq_len=max_seq_len,
        num_blocks=-(-options.max_kv_tokens // options.tokens_per_block),
        transfer=TransferSpec(transports=options.transports),
        **{name: getattr(options, name) for name in own},
    )


def _cores(options: EngineOptions) -> list[int]:
    allowed = sorted(os.sched_getaffinity(0))
    if options.device == "cuda" or options.device_ids is None:
        return allowed
    cores = sorted(set(options.device_ids))
    if not cores:
        raise ConfigError("device_ids is empty; None means all cores")
    if missing := [core for core in cores if core not in allowed]:
        raise ConfigError(f"device_ids: there is no core {missing[0]}; there are {', '.join(map(str, allowed))}")
    return cores


def _device(options: EngineOptions) -> str:
    if options.device == "cpu":
        return "cpu"
    ids = options.device_ids or [0]
    if len(ids) > 1:
        raise ConfigError(f"device_ids {ids}: an executor computes on one CUDA device")
    return f"cuda:{ids[0]}"
