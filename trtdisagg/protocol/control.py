"""What the agent tells: status and events to commands, membership to the proxy.

HTTP with JSON bodies over unix sockets (mode 0600):

    agent's control socket    GET /status -> ClusterStatus      GET /events -> one Event a line (supervisor/events.py)
                              GET /status/stream -> one ClusterStatus a line, when something has changed (at most 2 a s)
                              POST /down {DownRequest} -> 202
                              POST /scale {ScaleRequest}, /drain, /remove, /restart {ServersRequest},
                                   /switch {SwitchRequest}, /apply {ApplyRequest} -> Done when it is done, or
                                   400 Refused; `wait: false`: when it is begun
    proxy's members socket    PUT /members {Members} -> Told    the whole set, on each change and every second
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.spec import Role
from trtdisagg.protocol.stats import Stats

Need = Literal["context", "generation"]
HISTORY_S = 2.0
ServerState = Literal["starting", "loading", "ready", "stalled", "draining", "stopping", "backoff", "stopped", "failed"]
"""`stalled`: it was ready and shows no sign of life now, so it is not routed to."""


class Member(msgspec.Struct, kw_only=True, frozen=True, cache_hash=True):
    """A server that may be routed to, with the limits that admission looks at."""

    name: str
    role: Role
    model: str
    url: str
    """host:port"""
    incarnation: str = ""
    wire_version: int | None = None
    """None: not one of ours, so nothing negotiated is used."""
    max_seq_len: int | None = None
    num_blocks: int | None = None
    tokens_per_block: int | None = None
    max_batch_size: int | None = None
    """Requests that it runs at once."""

    @property
    def identity(self) -> str:
        """What tells it from the one that comes after it; where nothing does, its address."""
        return self.incarnation or self.url


class Members(msgspec.Struct, kw_only=True, frozen=True):
    """The whole set of members; one that is not in it is no longer routed to."""

    wire_version: int = WIRE_VERSION
    members: list[Member]
    needs: dict[str, list[Need]] = {}
    """The models of this cluster and the roles each must have a server of: before the first is ready, too."""
    coming: dict[str, list[Need]] = {}
    """Roles of which a server is about to be back (it starts again, or was just started): a request that finds none
    waits for it, within its deadline, instead of being refused."""
    workers: list[str] = []
    """Members sockets of all processes of the proxy, this one and those that drain among them; of the first one the
    newest stands first. Empty: there is only this one."""
    load_rows: dict[str, int] = {}
    """By identity of a server: its row in the load file."""
    ttl_ms: int = 5000
    """Without a renewal for this long, the set counts as stale: what is known goes on, `/health` says so."""


class Told(msgspec.Struct, kw_only=True, frozen=True):
    """The proxy's answer to a set of members."""

    in_use: dict[str, int] = {}
    """By incarnation of a server (of one without: by its host:port), in the set or not any more: requests that count on
    it still. A request counts on both its servers from the moment it is routed; on the context server until its KV has
    been taken over or is not needed any more, on the generation server to its end."""
    others: list[Member] = []
    """Members that the proxy knows from elsewhere (fixed addresses, a registry)."""


class ServerStatus(msgspec.Struct, kw_only=True, frozen=True):
    """One row of `trtdisagg status`."""

    name: str
    role: Literal["context", "generation", "both", "proxy"]
    model: str | None = None
    model_path: str | None = None
    """Where its files are, on its node."""
    state: ServerState
    reason: str | None = None
    """Why it is in this state, for people."""
    pid: int | None = None
    """Of rank 0."""
    pids: list[int] = []
    """Of all ranks, in order."""
    parallel: Parallel | None = None
    """How its ranks divide the model; None: it is no server of ours."""
    url: str | None = None
    nodes: list[str] = []
    """The node of each rank; empty: the agent's own."""
    gpus: list[str] = []
    cores: list[int] = []
    restarts: int = 0
    up_s: float | None = None
    """Since it was last ready."""
    stats: Stats = Stats()
    tokens_in_s: float = 0.0
    """Prompt tokens a second, over the last beats."""
    tokens_out_s: float = 0.0
    requests_s: float = 0.0
    """Requests taken a second, over the last beats."""
    failures_s: float = 0.0
    ttft_p95_ms: float | None = None
    """95th percentile of the time to first token, over the last minute; None: no answer in it."""
    tpot_p95_ms: float | None = None
    transfer_gb_s: float = 0.0
    """KV received: 10^9 bytes a second of transfer time, over the last beats."""
    history: list[float] = []
    """Generated tokens a second (of a context server prompt tokens, of the proxy requests), a value for each of the
    last intervals of HISTORY_S, the newest last."""
    in_use: int = 0
    """Requests that count on it, at the proxy."""
    max_running: int | None = None
    """Requests that it runs at once; None: not known."""
    max_seq_len: int | None = None
    """Prompt and output of a request together, in tokens."""
    kv_tokens: int | None = None
    """Its KV cache holds so many."""
    kv_bytes: int | None = None
    """The memory of the KV cache."""
    deadline_s: float | None = None
    """While it drains: until it is cut short."""
    log_file: str | None = None


class Link(msgspec.Struct, kw_only=True, frozen=True):
    """How KV gets from one server to another."""

    context: str
    generation: str
    is_open: bool
    """False: they are about to meet."""
    transport: str = ""
    direction: str = ""
    gb_s: float = 0.0
    """Of the test block that was moved."""
    latency_us: float = 0.0
    error: str | None = None
    """Why there is none: prompts are computed again."""


class ClusterStatus(msgspec.Struct, kw_only=True, frozen=True):
    wire_version: int = WIRE_VERSION
    cluster: str
    state: Literal["starting", "ready", "degraded", "stopping", "failed"]
    reason: str | None = None
    url: str
    """Where clients go."""
    file: str | None
    fingerprint: str = ""
    """Of what the file meant when it was read; another one means that it was changed since."""
    agent_pid: int
    up_s: float
    servers: list[ServerStatus]
    links: list[Link] = []
    others: list[Member] = []
    """Servers that others look after and the proxy routes to."""
    hints: list[str] = []
    """What people should look at, as sentences: a server that is slower than its like, a queue that grows."""
    autoscale: str | None = None
    """The autoscaler's last decision, in a line; None: it is off."""
    events: list[str] = []
    """The last few, as lines for people."""


class DownRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    timeout_s: float | None = None
    """Deadline of the drain; None: the cluster file's."""
    force: bool = False
    """Kill at once."""


class _Asked(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    timeout_s: float | None = None
    """Deadline of each drain; None: the cluster file's."""
    wait: bool = True
    """Answer when it is done; otherwise when it is begun."""


class ScaleRequest(_Asked, kw_only=True, frozen=True):
    """How many servers of some roles there shall be; those that are not named stay as they are."""

    counts: dict[str, int]
    """By role; with several models `MODEL.ROLE`."""


class ServersRequest(_Asked, kw_only=True, frozen=True):
    """To drain, remove or restart servers."""

    names: list[str]
    """`all`: every one, and the proxy."""
    rolling: bool = False
    """Of a restart: one after the other, each when the one before is ready."""


class SwitchRequest(_Asked, kw_only=True, frozen=True):
    """A server that shall go on in another role."""

    name: str
    role: Role


class ApplyRequest(_Asked, kw_only=True, frozen=True):
    """Read the cluster file again, and make what runs what it says."""

    overrides: list[str] | None = None
    """`a.b=c`, in place of what the file says; None: those it was read with."""
    dry_run: bool = False
    """Only tell the difference."""


class Done(msgspec.Struct, kw_only=True, frozen=True):
    """What was done, as lines for people."""

    lines: list[str] = []


class Refused(msgspec.Struct, kw_only=True, frozen=True):
    """Why not."""

    message: str
    exit_code: int = 1
