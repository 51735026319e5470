"""What a program that opens an executor says about it, and the specs of its ranks. Pure, but for a look at the
model's files and at the cores there are."""

from __future__ import annotations

import os
import uuid
from typing import Literal

import msgspec

from trtdisagg.errors import ConfigError
from trtdisagg.protocol.parallel import Parallel, even_partition
from trtdisagg.protocol.spec import Dtype, EngineSpec, Quantization, SchedulerPolicy, TransferSpec, Transport
from trtdisagg.text.dimensions import ModelDimensions, division_problems, read_dimensions
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
    """On a CPU the cores to stay on, None: all there are; its ranks divide them, or share them where there are more
    ranks. With CUDA the index of one device for each rank, None: the first ones."""
    num_threads: int | None = None
    """Of each rank; None: one for each of its cores."""
    tensor_parallel_size: int = 1
    """Ranks that divide each layer. All ranks but the first are processes that are started for it."""
    pipeline_parallel_size: int = 1
    """Stages, each with some of the layers; times `tensor_parallel_size`, this is the number of ranks."""
    moe_expert_parallel_size: int = 1
    """Groups of the ranks of a stage that divide the experts; those of one group divide each of theirs."""
    enable_attention_dp: bool = False
    """The ranks of a stage divide requests in place of heads."""
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


def make_specs(options: EngineOptions) -> list[EngineSpec]:
    """The spec of each rank, in order; `gang_socket`, where there are several, is still to be filled in.

    :raises ConfigError: when an option has no meaning, with its name.
    :raises StartupError: when there is no such model.
    """
    try:
        options = msgspec.convert(msgspec.to_builtins(options), EngineOptions)
    except msgspec.ValidationError as e:
        raise ConfigError(f"EngineOptions: {e}") from e
    cores = _cores(options)
    files = resolve_model(options.model)
    dims = read_dimensions(files)
    parallel = _parallel(options, dims)
    max_seq_len = options.max_seq_len or min(dims.max_positions, options.max_kv_tokens)
    own = {"quantization", "max_batch_size", "max_num_tokens", "tokens_per_block", "max_queue_size", "dtype"}
    own |= {"scheduler_policy", "enable_block_reuse"}
    incarnation = uuid.uuid4().hex
    devices = _devices(options, parallel.num_ranks)
    return [
        EngineSpec(
            cluster="",
            name="executor",
            role="both",
            incarnation=incarnation,
            model=files.served_name,
            model_path=files.path,
            device=devices[rank],
            cores=share,
            num_threads=options.num_threads or len(share),
            max_seq_len=max_seq_len,
            num_blocks=-(-options.max_kv_tokens // options.tokens_per_block),
            transfer=TransferSpec(transports=options.transports),
            parallel=parallel,
            rank=rank,
            **{name: getattr(options, name) for name in own},
        )
        for rank, share in enumerate(_divided(cores, parallel.num_ranks))
    ]


def _parallel(options: EngineOptions, dims: ModelDimensions) -> Parallel:
    tp_size, pp_size, moe_ep = (
        options.tensor_parallel_size,
        options.pipeline_parallel_size,
        options.moe_expert_parallel_size,
    )
    if min(tp_size, pp_size, moe_ep) < 1 or pp_size > dims.num_layers:
        raise ConfigError(f"{options.model} has {dims.num_layers} layers: stages and ranks are 1 or more, and no more")
    parallel = Parallel(
        tp_size=tp_size,
        pp_partition=even_partition(dims.num_layers, pp_size) if pp_size > 1 else [],
        moe_tp_size=max(1, tp_size // moe_ep),
        moe_ep_size=moe_ep,
        attention_dp=options.enable_attention_dp and tp_size > 1,
    )
    reasons = division_problems(dims, parallel)
    if moe_ep > 1 and not dims.num_experts:
        reasons.append(f"moe_expert_parallel_size {moe_ep}: it has no experts")
    if reasons:
        raise ConfigError(f"the model {options.model} cannot be divided like this: {'; '.join(reasons)}")
    return parallel


def _divided(cores: list[int], num_ranks: int) -> list[list[int]]:
    """The cores of each rank: all, where there are not enough for a share of one's own.

    >>> _divided([0, 1, 2, 3, 4], 2)
    [[0, 1], [2, 3, 4]]
    """
    if num_ranks > len(cores):
        return [cores] * num_ranks
    n = len(cores)
    return [cores[n * rank // num_ranks : n * (rank + 1) // num_ranks] for rank in range(num_ranks)]


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


def _devices(options: EngineOptions, num_ranks: int) -> list[str]:
    if options.device == "cpu":
        return ["cpu"] * num_ranks
    ids = options.device_ids or list(range(num_ranks))
    if len(ids) != num_ranks:
        ranks = "one CUDA device" if num_ranks == 1 else f"{num_ranks} CUDA devices, one for each rank"
        raise ConfigError(f"device_ids {ids}: this executor computes on {ranks}")
    return [f"cuda:{i}" for i in ids]
