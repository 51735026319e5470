"""What a server section says: `context_servers` and `generation_servers`."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trtdisagg.config.key_types import Backend, Count, CountOrZero, Fraction, Section, Size


class KvCacheConfig(Section, frozen=True):
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Type of the KV cache; `auto`: the model's compute type."""
    tokens_per_block: Literal[8, 16, 32, 64, 128] = 32
    """Tokens in a block, the unit of allocation and transfer."""
    free_gpu_memory_fraction: Fraction = 0.9
    """Share of the device's free memory for the KV cache of all its servers; without GPUs, of the host's memory."""
    max_tokens: Count | None = None
    """Upper bound of the KV cache in tokens. Without one, a server on a CPU takes at most 2 GiB."""
    enable_block_reuse: bool = True
    """Keep the blocks of requests that have ended, for others that begin with the same tokens."""
    enable_partial_reuse: bool = True
    """Reuse the beginning of a block, too, where the rest of it differs."""
    event_buffer_max_size: CountOrZero = 0
    """Events about blocks that a server keeps until somebody asks for them (`/kv_cache_events`); 0: none."""


class SchedulerConfig(Section, frozen=True):
    capacity_scheduler_policy: Literal["MAX_UTILIZATION", "GUARANTEED_NO_EVICT"] = "MAX_UTILIZATION"
    """MAX_UTILIZATION: a request takes blocks as its tokens come; when there are none left, the youngest of the lowest
    priority gives its own back and is computed again later. GUARANTEED_NO_EVICT: a request begins when all blocks that
    it may ever need are free, and is never interrupted."""


class CacheTransceiverConfig(Section, frozen=True):
    """Values that TensorRT-LLM takes from environment variables only have keys here; the variables count where the
    file does not say. See `environment`."""

    backend: Backend | None = None
    """How KV moves. DEFAULT: LOCAL (shared memory) between servers on one host without GPUs, otherwise NIXL. UCX:
    NIXL's plugin of that name with settings of ours. MPI: deprecated, host memory only. No backend: disaggregated
    serving is not enabled on this server; servers that `up` starts get DEFAULT. Variables: TRTLLM_USE_UCX_KVCACHE,
    TRTLLM_USE_NIXL_KVCACHE and TRTLLM_USE_MPI_KVCACHE (1) say what DEFAULT means."""
    max_tokens_in_buffer: Count | None = None
    """Size of the staging buffer in tokens, within `buffer_size`. A longer prompt goes through it in pieces."""
    buffer_size: Size = "512MB"
    """Size of each rank's staging buffer, through which small pieces travel in one: bytes, or with a unit (a MB has
    1024 * 1024); 0: none. Variable: TRTLLM_KVCACHE_TRANSFER_BUFFER_SIZE."""
    zero_copy: bool = False
    """Never go through the staging buffer: blocks move straight from pool to pool, however small their pieces are.
    Variable: TRTLLM_TRY_ZCOPY_FOR_KVCACHE_TRANSFER."""
    disable_overlap: bool = False
    """A generation server computes nothing for others while blocks travel. Variable:
    TRTLLM_DISABLE_KV_CACHE_TRANSFER_OVERLAP."""
    receive_parallel: bool = True
    """Receive from several ranks of a context server at once. Variable: TRTLLM_ENABLE_KVCACHE_RECEIVE_PARALLEL."""
    receive_concurrent: bool = True
    """Receive from several context servers at once. Variable: TRTLLM_REQUEST_KV_CACHE_CONCURRENT."""
    send_max_concurrency: Count = 1
    """Transfers that a rank of a context server packs or pushes at once. Variable:
    TRTLLM_KVCACHE_SEND_MAX_CONCURRENCY_NUM."""
    nixl_plugin: Literal["UCX", "LIBFABRIC"] = "UCX"
    """What NIXL moves with. Variable: TRTLLM_NIXL_KVCACHE_BACKEND."""
    enable_pipelined_transfer: bool = False
    """On context servers: blocks of a prompt travel while the rest of it is computed in chunks, so that the transfer of
    a long prompt is hidden. Generation servers take part that reuse blocks and let transfers overlap."""
    kv_transfer_timeout_ms: Count = 60_000
    """Deadline of one transfer, from its start."""
    kv_lease_ms: Count = 30_000
    """How long a context server holds blocks that nobody comes for; renewed while a generation server waits or
    reads."""


class RouterConfig(Section, frozen=True):
    """As TensorRT-LLM has them, the other keys may stand in `args:`, and `session` may be called `conversation`."""

    type: Literal["round_robin", "load_balancing", "kv_cache_aware", "session"] = "round_robin"
    """How a server is chosen among those of a role. round_robin: the next. load_balancing: the one with the fewest
    requests in flight. kv_cache_aware: the one with the highest share of the prompt in its cache less its load, as a
    share of max_batch_size; where nobody knows what caches hold, as load_balancing. session: the one that the
    conversation was at before (header X-Session-ID, or messages that begin alike), unless it is overloaded; other
    requests where half their prompt or more is cached, or else as load_balancing."""
    use_tokens: bool = False
    """Load is counted in tokens of prompts and answers, not in requests."""
    max_batch_size: Count | None = None
    """So many requests weigh as much as a whole prompt in the cache; without it, the section's max_batch_size."""


class ServerSection(Section, frozen=True):
    """`context_servers` and `generation_servers`. Any key but urls and num_instances may also stand at the top level,
    where both sections inherit it."""

    num_instances: Annotated[int, msgspec.Meta(ge=0)] = 1
    """How many servers."""
    urls: list[str] = []
    """host:port of each. With `model:`, where our servers listen; without, servers that already run."""
    router: RouterConfig = RouterConfig()
    """Which server gets a request."""
    tensor_parallel_size: Count = 1
    """Ranks that share each layer. A server has `tensor_parallel_size * pipeline_parallel_size` ranks, a process each,
    on a GPU of its own or on some of the CPU's cores; they live and die together."""
    pipeline_parallel_size: Count = 1
    """Stages that share the layers out."""
    pp_partition: list[Count] | None = None
    """Layers of each stage; without it, as even as can be."""
    moe_tensor_parallel_size: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    """Ranks that share each expert, in a model that has experts; without it (or -1), `tensor_parallel_size` divided by
    moe_expert_parallel_size."""
    moe_expert_parallel_size: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    """Groups of ranks that share the experts out; without it (or -1), `tensor_parallel_size` divided by
    moe_tensor_parallel_size, or 1 where that is not given either."""
    enable_attention_dp: bool = False
    """The `tensor_parallel_size` ranks share the requests out, each with all heads and with KV of its own requests
    alone; experts are divided all the same. max_batch_size, max_num_tokens and the KV cache are those of each rank."""
    max_batch_size: Count = 64
    """Requests that run at once."""
    max_num_tokens: Count = 2048
    """Tokens computed in one step."""
    max_seq_len: Count | None = None
    """Prompt and output together; without it, what the model was trained for."""
    max_queue_size: Count = 1024
    """Requests that wait on a server before it answers 429."""
    dtype: Literal["auto", "bfloat16", "float32"] = "auto"
    """Compute type of the weights; `auto`: bfloat16."""
    quantization: Literal["none", "int8"] = "none"
    """`int8`: linear layers keep their weights in 8 bits, with a scale for each group of them: half the memory and,
    on a CPU, faster generation, at a small loss of precision."""
    scheduler_config: SchedulerConfig = SchedulerConfig()
    """Who runs when there is not room for all."""
    enable_chunked_prefill: bool = True
    """Compute a prompt longer than max_num_tokens in chunks; without it, such a prompt is refused."""
    disable_overlap_scheduler: bool = False
    """On a GPU, launch a step only when the tokens of the last are known. On a CPU there is no difference."""
    perf_metrics_max_requests: CountOrZero = 0
    """Requests whose times a server keeps until somebody asks for them (`/perf_metrics`); 0: 1000 with
    return_perf_metrics, else as many as the proxy keeps."""
    return_perf_metrics: bool = False
    """Keep the times of requests, 1000 where perf_metrics_max_requests does not say how many."""
    stream_interval: Count = 1
    """Tokens that a stream sends at once; the first is always sent by itself."""
    kv_cache_config: KvCacheConfig = KvCacheConfig()
    """Size and form of the KV cache."""
    cache_transceiver_config: CacheTransceiverConfig = CacheTransceiverConfig()
    """How KV moves from context to generation servers."""
    gpus: list[str | int] | None = None
    """GPUs to divide among this section's servers, who share them where there are fewer: index, UUID or its beginning,
    MIG UUID. Without it each server gets one of those that nobody names, for itself; `[]`: the CPU."""
    cores: list[int] | None = None
    """CPU cores to divide among this section's servers; without it, a share of those that nobody names, near the
    server's GPU or within a NUMA node."""
    enable_pdl: bool = False
    """Servers get TRTLLM_ENABLE_PDL=1, for programs of `command` that launch kernels before those they depend on have
    ended; the builtin engine does not."""
    env: dict[str, str] = {}
    """Environment variables added for the servers."""
    command: list[str] | None = None
    """Program started in the builtin engine's place, with `--spec FILE` added: a wrapper (numactl, a profiler), or
    another engine that reads a spec."""
    extra_llm_api_options: str | None = None
    """A worker's YAML, merged into this section."""
