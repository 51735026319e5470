"""The spec file a child is started with, the reports it sends back, and the commands it is sent.

    python -m trtdisagg.engine --spec FILE      reads an EngineSpec
    trtdisagg proxy --spec FILE                 reads a ProxySpec

The same file starts the child again by hand. Reports are JSON lines on the inherited descriptor `report_fd`, commands
on `command_fd`; without them (by hand) reports are only logged, and nobody commands.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.parallel import Parallel

Role = Literal["context", "generation", "both"]
Transport = Literal["local", "nixl", "ucx"]
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
    """Unix socket (0600) of rank 0, where the other ranks of the server come; None: there are no others."""
    secret_file: str | None = None
    parent_pid: int | None = None
    """End when this process ends."""
    report_fd: int | None = None
    command_fd: int | None = None

    @property
    def num_blocks_of_all(self) -> int:
        """Of all ranks that divide the requests: those that hold parts of the same ones count once."""
        return self.num_blocks * self.parallel.dp_size


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
    perf_metrics_max_requests: int = 0
    """Requests that were handed over, of which is kept which servers they were on and when; 0: none."""
    max_body_bytes: int = 8 * 1024 * 1024
    max_queue_size: int = 1024
    first_token_timeout_s: float = 300.0
    """From the request to its first token; a stream that flows has no total limit."""
    idle_timeout_s: float = 120.0
    """Between two tokens."""
    secret_file: str | None = None
    parent_pid: int | None = None
    report_fd: int | None = None


# --- reports, child to agent ----------------------------------------------------------------------------------------

LATENCY_BOUNDS_S = (
    *(0.001, 0.002, 0.003, 0.005, 0.007, 0.01, 0.015, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7),
    *(1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0),
)
"""Upper bounds of the buckets in which latencies are counted; percentiles of a window come from differences of counts,
and counts of several servers may be added."""
TRANSFER_BOUNDS_S = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0),
)
"""The same for transfers of KV, which may be much shorter."""


class Stats(msgspec.Struct, kw_only=True, frozen=True):
    """Counters of a server or proxy. Names ending in `_total` only grow."""

    num_running: int = 0
    num_waiting: int = 0
    num_steps_total: int = 0
    num_requests_total: int = 0
    num_failed_total: int = 0
    num_prompt_tokens_total: int = 0
    num_generation_tokens_total: int = 0
    num_blocks: int = 0
    num_used_blocks: int = 0
    num_held_blocks: int = 0
    """Of the used ones, held for a handover."""
    num_cached_blocks: int = 0
    """Of the others, those whose content can be found."""
    num_reused_blocks_total: int = 0
    """Blocks of prompts that were found."""
    num_missed_blocks_total: int = 0
    """Those that were not."""
    num_preemptions_total: int = 0
    num_quarantined_blocks: int = 0
    """Of the used ones, those of requests that have ended, which a transfer may still write into."""
    num_transfers_running: int = 0
    """KV that is on its way here."""
    num_transfers_total: int = 0
    """Received, as the next ones."""
    num_transfer_failures_total: int = 0
    num_transfer_bytes_total: int = 0
    num_transfer_descriptors_total: int = 0
    """Pieces that transfers were made of."""
    transfer_seconds_total: float = 0.0
    transfer_seconds_counts: list[int] = []
    """Transfers by their time: how many fell below each of `TRANSFER_BOUNDS_S`, beyond the one before, and at last how
    many above all. Only grow; empty: none yet."""
    num_expired_leases_total: int = 0
    """Handovers that nobody came for in time."""
    num_unread_holds_total: int = 0
    """Handovers whose blocks were given back without having been read, for whatever reason."""
    first_token_counts: list[int] = []
    """Answers by their time to first token: how many fell below each of `LATENCY_BOUNDS_S`, beyond the one before, and
    at last how many above all. Only grow; empty: none yet."""
    per_token_counts: list[int] = []
    """The same of the time per output token, the first left out."""


class Loading(msgspec.Struct, tag="loading", kw_only=True, frozen=True):
    stage: str
    """For people: `weights`, `warm-up`, ..."""


class Ready(msgspec.Struct, tag="ready", kw_only=True, frozen=True):
    """The child can serve: model loaded, one token generated, sockets open."""

    host: str
    port: int
    wire_version: int = WIRE_VERSION
    max_seq_len: int = 0
    num_blocks: int = 0
    tokens_per_block: int = 0
    dtype: str = ""
    role: Role | None = None
    """The one it has now; said again when it has changed."""
    kv_host: str = ""
    kv_port: int = 0
    """Where other servers meet it for KV; 0: it hands nothing over."""


class Linked(msgspec.Struct, tag="linked", kw_only=True, frozen=True):
    """A generation server has met a context server it was told of, or cannot."""

    server: str
    incarnation: str
    transport: str = ""
    direction: Literal["", "pull", "push"] = ""
    gb_s: float = 0.0
    """Of the test block that was moved."""
    latency_us: float = 0.0
    error: str | None = None
    """Why there is no link: prompts of that server are computed again here."""


class Beat(msgspec.Struct, tag="beat", kw_only=True, frozen=True):
    """Twice a second while the process is alive, whatever its loops do: those show in `progress`."""

    stats: Stats
    progress: int = 0
    """Grows whenever a part of a step is computed; several times a second, also within a long step."""
    is_working: bool = False
    """There is something to compute: while this is so and `progress` stands still, the server is stuck."""


class Failed(msgspec.Struct, tag="failed", kw_only=True, frozen=True):
    """The child cannot go on and ends itself; `message` is the one clear line for people."""

    message: str
    fatal: bool = False
    """Starting it again cannot help (a missing model, a wrong file)."""


Report = Loading | Ready | Linked | Beat | Failed

# --- commands, agent to child ---------------------------------------------------------------------------------------


class SwitchRole(msgspec.Struct, tag="switch_role", kw_only=True, frozen=True):
    """Go on in another role; answered by a Ready with that role. The agent has seen to it that nothing runs."""

    role: Role


class Meet(msgspec.Struct, tag="meet", kw_only=True, frozen=True):
    """There is a context server to fetch KV from: connect, and move a test block; answered by `Linked`."""

    peer: PeerAddress


class Gone(msgspec.Struct, tag="gone", kw_only=True, frozen=True):
    """An incarnation of a server has ended: nothing of it comes any more, and what it had claimed is free."""

    incarnation: str


Command = SwitchRole | Meet | Gone
