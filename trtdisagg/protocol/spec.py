"""The spec file that a rank is started with; that of a proxy is in `proxy_spec`.

    python -m trtdisagg.engine --spec FILE      reads an EngineSpec

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
