"""The spec file that a proxy is started with: `trtdisagg proxy --spec FILE` reads a ProxySpec. See `spec`."""

from __future__ import annotations

from typing import Literal

import msgspec

from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.spec import Role


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
