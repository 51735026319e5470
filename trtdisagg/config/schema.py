"""The cluster file as a tree of frozen Structs: every key, its default and its meaning, written once, here.

A key's documentation is the string below it. Keys of TensorRT-LLM's files have TensorRT-LLM's names and meanings.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trtdisagg.config import sizes

Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(gt=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Size = CountOrZero | Annotated[str, msgspec.Meta(pattern=sizes.PATTERN)]
Backend = Literal["DEFAULT", "NIXL", "UCX", "MPI", "LOCAL"]


class _Section(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    pass


class KvCacheConfig(_Section, frozen=True):
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


class SchedulerConfig(_Section, frozen=True):
    capacity_scheduler_policy: Literal["MAX_UTILIZATION", "GUARANTEED_NO_EVICT"] = "MAX_UTILIZATION"
    """MAX_UTILIZATION: a request takes blocks as its tokens come; when there are none left, the youngest of the lowest
    priority gives its own back and is computed again later. GUARANTEED_NO_EVICT: a request begins when all blocks that
    it may ever need are free, and is never interrupted."""


class CacheTransceiverConfig(_Section, frozen=True):
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


class RouterConfig(_Section, frozen=True):
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


class ServerSection(_Section, frozen=True):
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
    env: dict[str, str] = {}
    """Environment variables added for the servers."""
    command: list[str] | None = None
    """Program started in the builtin engine's place, with `--spec FILE` added: a wrapper (numactl, a profiler), or
    another engine that reads a spec."""
    extra_llm_api_options: str | None = None
    """A worker's YAML, merged into this section."""


class ModelEntry(_Section, frozen=True):
    """One of several models in a cluster."""

    name: str
    """What its servers' names begin with (`NAME.context-0`), and what clients ask for."""
    model: str | None = None
    """As at the top level."""
    served_model_name: str | None = None
    """What clients ask for, where that is not `name`: this one may have any characters."""
    context_servers: ServerSection | None = None
    """As at the top level."""
    generation_servers: ServerSection | None = None
    """As at the top level."""

    @property
    def served_name(self) -> str:
        return self.served_model_name or self.name


class ConditionalDisaggConfig(_Section, frozen=True):
    max_local_prefill_length: CountOrZero = 0
    """A prompt of which so many tokens or fewer have to be computed, because it is short or most of it is in the
    server's cache, goes to a generation server alone. 0: none does."""


class SupervisionConfig(_Section, frozen=True):
    start_timeout_s: Seconds = 300.0
    """Deadline from the start of a server until it can serve."""
    drain_timeout_s: Seconds = 30.0
    """Deadline for running requests when a server is asked to end; then it is stopped."""
    kill_timeout_s: Seconds = 10.0
    """From SIGTERM to SIGKILL."""
    max_crashes: Count = 5
    """A server that crashes so often within `crash_window_s` has failed and is not started again by itself; the cluster
    ends when it cannot serve without it."""
    crash_window_s: Seconds = 600.0
    """Crashes further back do not count."""
    stall_timeout_s: Seconds = 20.0
    """A server that gives no sign of life, or has work and computes nothing, gets no requests after 2 s; after this
    long it is killed and started again."""
    canary_interval_s: Seconds | None = None
    """How often each server is asked for one token, to see that it can; without it, never."""
    canary_timeout_s: Seconds = 10.0
    """Deadline of that token; a server that misses it twice in a row gets no requests until it answers again."""
    backoff_s: Seconds = 1.0
    """Pause before the first restart; doubles with each death, to at most `max_backoff_s`, with jitter."""
    max_backoff_s: Seconds = 60.0
    """Longest pause before a restart."""


class AutoscaleBounds(_Section, frozen=True):
    min: Count = 1
    """Never fewer servers."""
    max: Count = 8
    """Never more."""


class AutoscaleConfig(_Section, frozen=True):
    enabled: bool = False
    """Whether the numbers of servers follow the load."""
    dry_run: bool = False
    """Only say what would be done, and why."""
    interval_s: Seconds = 5.0
    """Time between two decisions."""
    cooldown_s: Seconds = 30.0
    """Pause after a change, for it to show."""
    context: AutoscaleBounds = AutoscaleBounds()
    """Bounds of the number of context servers."""
    generation: AutoscaleBounds = AutoscaleBounds()
    """Bounds of the number of generation servers."""
    move: bool = True
    """Whether a server that one role can spare may be given to the other before one is added."""
    target_waiting: Seconds = 2.0
    """Requests that may wait on a server before more of its role are wanted."""
    target_ttft_ms: Seconds | None = None
    """95th percentile of the time to first token that more context servers shall keep."""
    target_tpot_ms: Seconds | None = None
    """95th percentile of the time per output token that more generation servers shall keep."""
    idle_share: Fraction = 0.3
    """A role whose servers are busy for less than this share of their batch and KV cache can spare one."""


class MinimalInstances(_Section, frozen=True):
    context_servers: Annotated[int, msgspec.Meta(ge=0)] = 1
    """With fewer context servers the cluster is not ready."""
    generation_servers: Annotated[int, msgspec.Meta(ge=0)] = 1
    """With fewer generation servers the cluster is not ready."""


class DisaggCluster(_Section, frozen=True):
    cluster_uri: str | None = None
    """Where servers register: `http://host:port` of the proxy itself (`https://`: with `proxy.tls`), or
    `etcd://host:2379` (`etcds://`: with TLS). Without it, only the servers of this file are routed to."""
    cluster_name: str = ""
    """Clusters of other names in one etcd do not meet."""
    minimal_instances: MinimalInstances = MinimalInstances()
    """What must be there before the first request is served."""
    heartbeat_interval_sec: Seconds = 5.0
    """How often a lease is renewed."""
    inactive_timeout_sec: Seconds = 10.0
    """A server whose lease was not renewed for so long is gone."""
    user: str | None = None
    """Of etcd, where it asks for one."""
    password_file: str | None = None
    """File (0600) with that user's password."""
    ca_file: str | None = None
    """Certificates that etcd's, or the proxy's, is checked against; without it, the system's."""
    cert_file: str | None = None
    """Our certificate, where etcd asks for one."""
    key_file: str | None = None
    """And its key."""


class TlsConfig(_Section, frozen=True):
    cert_file: str
    """PEM file with the certificate, and those between it and a root."""
    key_file: str
    """PEM file with its key, not encrypted."""


class BreakerConfig(_Section, frozen=True):
    num_failures: CountOrZero = 5
    """A server that has failed so many of its last `num_legs` gets no requests for a while; 0: never."""
    num_legs: Count = 10
    """How many of its last answers are looked at."""
    window_s: Seconds = 30.0
    """Failures that are older do not count."""
    open_s: Seconds = 5.0
    """For how long; then, when its `/health` is well, it is tried again, and cut off for twice as long if it fails."""
    max_open_s: Seconds = 60.0
    """Longest time that it is cut off."""


class ProxyConfig(_Section, frozen=True):
    num_workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Processes that take requests at the one address, sharing load and limits; one that dies loses its own requests
    only. At the top level, as TensorRT-LLM has it, it means the same."""
    api_keys_file: str | None = None
    """File (0600) with the API keys that may ask, and their limits; `trtdisagg generate api-key NAME` prints an entry.
    Without it everybody may. With it, metrics and other pages for operators ask for the cluster's secret. A change of
    the file counts at once."""
    tls: TlsConfig | None = None
    """Clients come with https. A change of the files counts for connections that begin after it."""
    cors_allow_origins: list[str] = []
    """Origins (`https://app.example.org`) whose pages may ask from within a browser; `"*"`: all."""
    max_connections: Count = 8192
    """Connections of clients that are open at once, in each process; one more is answered 503 and closed. Fewer, where
    the process may open fewer than two files for each (`ulimit -Hn`)."""
    max_body_bytes: Count = 8 * 1024 * 1024
    """A larger request body is a 413."""
    max_in_flight: Count = 4096
    """Requests that one of the processes works on, those that wait and those that are answered; one more is a 429."""
    max_queue_size: Count = 1024
    """Of these, those that wait for a generation server to have room, or to come; one more is a 429. Room is a quarter
    more than the server's max_batch_size, so that its next batch is there already. As many as run at once, and nobody
    waits longer than an answer takes."""
    kv_overcommit: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    """Room is also this many tokens of prompts and answers (max_tokens) for each token of the server's KV cache. More
    than 1, because most answers end early; much more where prompts share long beginnings, of which there is one copy.
    """
    first_token_timeout_s: Seconds = 300.0
    """From a request to its first token."""
    idle_timeout_s: Seconds = 120.0
    """Between two tokens of a stream; there is no limit on a stream that flows."""
    max_migrations: CountOrZero = 3
    """How often an answer that has its first token, and whose generation server dies or fails, goes on elsewhere."""
    retry_share: Fraction = 0.2
    """Share of all requests that may be tried again because a server answered with an error, beside 10 a second; of
    servers that are gone, each request is tried elsewhere."""
    breaker: BreakerConfig = BreakerConfig()
    """When a server that is there and fails gets no requests."""
    access_log: str | None = None
    """A line of JSON for each request (docs/observability.md), to this file, which is put aside at 64 MiB (`FILE.1` to
    `FILE.3`), or to `stderr`; without it, or with `"off"`, none is written."""


class OtlpConfig(_Section, frozen=True):
    otlp_traces_endpoint: str | None = None
    """OpenTelemetry collector that traces of requests are sent to, `http://host:4318` or `grpc://host:4317`; with TLS
    `https`, `grpcs`. Takes `pip install 'trtdisagg[otel]'`."""


class ProcessingConfig(_Section, frozen=True):
    num_workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Processes that work on texts (chat templates, tokens) for each process of the proxy, where a router looks at a
    prompt's tokens, and for /tokenize and /detokenize; started when they are first needed. Each works on a long text
    and a short one at once (of prompts of 32k tokens about ten a second), and keeps the tokenizers of all models: 0.1
    to 0.4 GB each."""


class ClusterFile(_Section, frozen=True):
    """The whole file."""

    name: str | None = None
    """Names the cluster to `down`, `status` and `logs`; without it, the file's directory does."""
    model: str | None = None
    """An alias (`smollm2-135m-instruct`), a hub id, a directory with safetensors, or a .gguf file. With it, the servers
    are ours to start."""
    served_model_name: str | None = None
    """What clients ask for; without it, `model` as it stands (of a path, its last part)."""
    models: list[ModelEntry] = []
    """In place of `model` and the two sections: several models behind one proxy, each with servers of its own."""
    hostname: str = "localhost"
    """Address the proxy listens on."""
    port: Port = 8000
    """Port the proxy listens on; 0: any that is free, see `trtdisagg status`."""
    engine: Literal["builtin"] = "builtin"
    """Which engine the servers run."""
    context_servers: ServerSection | None = None
    """Servers that compute prompts."""
    generation_servers: ServerSection | None = None
    """Servers that take prompts over and compute the answers. With no context server they do both."""
    conditional_disagg_config: ConditionalDisaggConfig = ConditionalDisaggConfig()
    """Which prompts a generation server computes itself."""
    max_retries: Annotated[int, msgspec.Meta(ge=0)] = 1
    """How often a request that failed before its first token is tried elsewhere, both legs together."""
    perf_metrics_max_requests: CountOrZero = 0
    """Requests that were handed over of which the proxy keeps the times, with those of both servers, until somebody
    asks for them (`/perf_metrics`); 0: none. Servers that say nothing of their own keep as many."""
    secret_file: str | None = None
    """File (0600) with the cluster's secret; `up` makes one in the runtime directory."""
    supervision: SupervisionConfig = SupervisionConfig()
    """Deadlines and restarts."""
    autoscale: AutoscaleConfig = AutoscaleConfig()
    """Whether, and how, the numbers of servers follow the load."""
    disagg_cluster: DisaggCluster = DisaggCluster()
    """Where servers of other agents register."""
    processing: ProcessingConfig = ProcessingConfig()
    """Work on texts, outside the proxy's loop."""
    proxy: ProxyConfig = ProxyConfig()
    """Limits and deadlines of requests."""
    otlp_config: OtlpConfig = OtlpConfig()
    """Where traces of requests go; without it, nobody traces."""
