"""The spec file that a child is started with.

    python -m trtdisagg.engine --spec FILE      reads an EngineSpec
    trtdisagg proxy --spec FILE                 reads a ProxySpec

The same file starts the child again by hand. What a child says then goes out on the inherited descriptor `report_fd`
(`reports`), what it is told comes in on `command_fd` (`commands`); without them, by hand, nobody hears and nobody
commands.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.parallel import Parallel

Role = Literal["context", "generation", "both"]
Transport = Literal["local", "nixl", "ucx", "mpi"]
Dtype = Literal["bfloat16", "float32"]
SchedulerPolicy = Literal["guaranteed_no_evict", "max_utilization"]
Quantization = Literal["none", "int8"]


class SamplingDefaults(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What a request that does not say is sampled with."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all."""


class TransferSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How KV moves between servers."""

    transports: list[Transport] = []
    """In order of preference; empty: no disaggregated serving."""
    nixl_plugin: str = "UCX"
    """The plugin that the transport `nixl` uses."""
    lease_ms: int = 30_000
    """How long blocks are held that nobody comes for."""
    timeout_ms: int = 60_000
    """Deadline of one transfer, from its start."""
    max_tokens_in_buffer: int | None = None
    """Size of the staging buffer in tokens; None: `buffer_bytes` bounds it alone."""
    buffer_bytes: int = 512 * 1024 * 1024
    zero_copy: bool = False
    """Never stage: blocks move straight from pool to pool, however small their pieces are."""
    overlap: bool = True
    """The generation server computes for others while blocks travel."""
    receive_parallel: bool = True
    """A rank receives from several ranks of a context server at once."""
    receive_concurrent: bool = True
    """A rank receives from several context servers at once."""
    send_concurrency: int = 1
    """Transfers that a context server's rank packs or pushes at once."""
    pipelined: bool = False
    """Blocks of a prompt travel while the rest of it is computed."""


class PeerAddress(msgspec.Struct, kw_only=True, frozen=True):
    """Where another server of the cluster can be met for KV."""

    server: str
    incarnation: str
    host: str
    port: int


class EngineSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Everything one engine process knows at its start."""

    wire_version: int = WIRE_VERSION
    cluster: str
    name: str
    role: Role
    incarnation: str
    model: str
    """The name clients use."""
    model_path: str
    """A directory with safetensors, or a .gguf file."""
    sampling_defaults: SamplingDefaults = SamplingDefaults()
    device: str = "cpu"
    """`cpu`, or `cuda` (then CUDA_VISIBLE_DEVICES says which)."""
    dtype: Dtype = "bfloat16"
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port; the one taken is in the Ready report."""
    cores: list[int] | None = None
    """CPU cores to stay on; None: wherever the parent may run."""
    num_threads: int = 1
    max_batch_size: int = 64
    """Requests that run at once; with attention data parallelism on each rank, and so are the next and `num_blocks`."""
    max_num_tokens: int = 2048
    """Tokens computed in one step."""
    max_seq_len: int
    """Prompt and output together."""
    max_queue_size: int = 1024
    """Requests that wait; one more is answered 429."""
    max_body_bytes: int = 8 * 1024 * 1024
    tokens_per_block: int = 32
    num_blocks: int
    scheduler_policy: SchedulerPolicy = "max_utilization"
    enable_chunked_prefill: bool = True
    """False: a prompt longer than `max_num_tokens` is refused."""
    enable_block_reuse: bool = True
    enable_partial_reuse: bool = True
    event_buffer_max_size: int = 0
    """Events about blocks that are kept for `/kv_cache_events`; 0: none are made."""
    perf_metrics_max_requests: int = 0
    """Requests whose times are kept for `/perf_metrics`; 0: none are taken."""
    quantization: Quantization = "none"
    disable_overlap_scheduler: bool = False
    """On a device that computes by itself: launch no step before the tokens of the last are known."""
    stream_interval: int = 1
    """Tokens that a stream sends at once."""
    transfer: TransferSpec = TransferSpec()
    parallel: Parallel = Parallel()
    rank: int = 0
    """Of this process in its server. Rank 0 serves requests; the others are told by it what to compute."""
    gang_socket: str | None = None
    """Unix socket (0600) of rank 0, where the other ranks of the server come; None: there are no others, or they are on
    several hosts."""
    gang_address: str | None = None
    """host:port of rank 0, where the others come when they are on several hosts; `host` is then each rank's own."""
    gang_fd: int | None = None
    """Rank 0's: the socket that listens there, inherited."""
    client_host: str | None = None
    """Where rank 0 takes requests in, when that is not `host`."""
    clients_know_secret: bool = True
    """False: only its own ranks do, and no other host can reach `client_host`."""
    secret_file: str | None = None
    parent_pid: int | None = None
    """End when this process ends."""
    report_fd: int | None = None
    command_fd: int | None = None

    @property
    def http_host(self) -> str:
        """Where rank 0 takes requests in."""
        return self.client_host or self.host

    @property
    def meeting_place(self) -> str:
        """Where the ranks meet, for people."""
        return str(self.gang_address or self.gang_socket)

    @property
    def num_blocks_of_all(self) -> int:
        """Of all ranks that divide the requests: those that hold parts of the same ones count once."""
        return self.num_blocks * self.parallel.dp_size

    @property
    def max_batch_size_of_all(self) -> int:
        """Likewise."""
        return self.max_batch_size * self.parallel.dp_size


class UpstreamServer(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A server that the proxy is told of by address: it already runs, somebody else looks after it."""

    name: str
    role: Role
    model: str | None
    """None: asked from /v1/models."""
    url: str
    """host:port"""


class RegistrySpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Where servers are registered that other agents, or other programs, look after."""

    uri: str
    """`http://host:port`: inside the proxy that listens there; `etcd://host:port`."""
    cluster_name: str = ""
    minimal_instances: dict[str, int] = {}
    """By role (`context`, `generation`): fewer, and the cluster is not ready."""
    heartbeat_s: float = 5.0
    inactive_s: float = 10.0
    """A server whose lease was not renewed for so long is gone."""
    user: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class MetadataSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The older registry: keys in etcd, looked at now and then."""

    uri: str
    """`etcd://host:port`."""
    health_check_timeout_s: float = 5.0
    """Of one look at a server."""
    refresh_interval_s: float = 10.0
    """Between two looks at etcd."""


class TlsSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the proxy proves with who it is."""

    cert_file: str
    """PEM: the certificate, then those between it and a root."""
    key_file: str
    """PEM, not encrypted."""


RouterType = Literal["round_robin", "load_balancing", "kv_cache_aware", "session"]


class RouterSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """How one of the servers of a role is chosen."""

    type: RouterType = "round_robin"
    use_tokens: bool = False
    """Load is counted in tokens, not in requests."""
    max_batch_size: int = 64
    """So many requests weigh as much as the whole prompt found in the cache."""


ANY_MODEL = "*"
"""In `ProxySpec.models`: every model that is not listed by its name."""


class ModelSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the proxy knows of a model from the cluster file."""

    context_router: RouterSpec = RouterSpec()
    generation_router: RouterSpec = RouterSpec()
    max_local_prefill_length: int | None = None
    """Prompts of which not more tokens are to be computed go to a generation server alone; None: none do."""
    model_path: str | None = None
    """Where its tokenizer is; None: not here, so its prompts are not read here."""

    @property
    def reads_prompts(self) -> bool:
        """Whether it makes a difference to know a prompt's tokens before it is routed."""
        types = (self.context_router.type, self.generation_router.type)
        return self.max_local_prefill_length is not None or "kv_cache_aware" in types or "session" in types

    @property
    def goes_by_session(self) -> bool:
        """Whether a request of a conversation is routed by that alone, so that its tokens make no difference."""
        types = {self.context_router.type, self.generation_router.type}
        return self.max_local_prefill_length is None and "session" in types and "kv_cache_aware" not in types


class BreakerSpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """When a server that fails again and again is not routed to, and for how long."""

    num_failures: int = 5
    """0: never."""
    num_legs: int = 10
    """So many of its last legs are looked at."""
    window_s: float = 30.0
    """Older failures do not count."""
    open_s: float = 5.0
    """At first; doubles with each time that it fails when it is tried again."""
    max_open_s: float = 60.0


class ProxySpec(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Everything the proxy process knows at its start."""

    wire_version: int = WIRE_VERSION
    cluster: str
    host: str = "127.0.0.1"
    port: int = 8000
    servers: list[UpstreamServer] = []
    """Servers with fixed addresses; those that an agent looks after come over `members_socket`."""
    listen_fds: list[int] = []
    """Inherited sockets to accept clients on, bound by the agent and open in it as long as it lives, so that clients
    wait rather than being refused while a proxy starts again; empty: the proxy opens `host` and `port` itself."""
    members_socket: str | None = None
    """Unix socket (0600) on which the agent tells who may be routed to."""
    control_socket: str | None = None
    """The agent's: where `/dashboard` gets the state from."""
    registry: RegistrySpec | None = None
    """Where servers of other agents are registered; None: nowhere."""
    metadata: MetadataSpec | None = None
    """Where servers are registered in the older way."""
    max_retries: int = 1
    access_log: str | None = None
    """A file, or `stderr`: a line of JSON for each request; None: none is written."""
    otlp_traces_endpoint: str | None = None
    """OpenTelemetry collector; None: nobody traces."""
    max_migrations: int = 3
    """How often an answer that has its first token goes on elsewhere."""
    retry_share: float = 0.2
    """Of requests, that may be tried again because a server answered with an error."""
    breaker: BreakerSpec = BreakerSpec()
    perf_metrics_max_requests: int = 0
    """Requests that were handed over, of which is kept which servers they were on and when; 0: none."""
    max_body_bytes: int = 8 * 1024 * 1024
    max_in_flight: int = 4096
    """Requests that this process works on, those that wait and those that are answered."""
    max_queue_size: int = 1024
    """Of these, those that wait for a generation server to have room, or to come."""
    kv_overcommit: float = 2.0
    """Tokens of prompts and answers that a generation server is given for each token its KV cache has room for."""
    max_connections: int = 8192
    """Of clients, open at once."""
    api_keys_file: str | None = None
    """Who may ask; None: everybody."""
    tls: TlsSpec | None = None
    cors_allow_origins: list[str] = []
    """Whose pages may ask from within a browser; `*`: anybody's."""
    first_token_timeout_s: float = 300.0
    """From the request to its first token; a stream that flows has no total limit."""
    idle_timeout_s: float = 120.0
    """Between two tokens."""
    models: dict[str, ModelSpec] = {}
    """By the name that clients use; `*`: those that are not listed. Without either, a model is routed round robin."""
    worker: int = 0
    """Number of this process among those that share the port."""
    num_workers: int = 1
    load_file: str | None = None
    """Mapped by all of them: what each has in flight on each server (`loads`); None: it is the only one."""
    load_column: int = 0
    """Of this process in that file: a process that it replaces and that still drains has another."""
    num_text_workers: int = 1
    """Processes that render and tokenize prompts for this one, started when they are first needed."""
    secret_file: str | None = None
    parent_pid: int | None = None
    report_fd: int | None = None
