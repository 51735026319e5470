"""What the agent tells: status and events to commands, membership to the proxy.

HTTP with JSON bodies over unix sockets (mode 0600):

    agent's control socket    GET /status -> ClusterStatus      GET /events -> one Event a line (supervisor/events.py)
                              POST /down {DownRequest} -> 202
    proxy's members socket    PUT /members {Members} -> 204     the whole set, on each change and every second
"""

from __future__ import annotations

from typing import Literal

import msgspec

from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.spec import Role, Stats

Need = Literal["context", "generation"]
ServerState = Literal["starting", "loading", "ready", "stalled", "draining", "stopping", "backoff", "stopped", "failed"]
"""`stalled`: it was ready and shows no sign of life now, so it is not routed to."""


class Member(msgspec.Struct, kw_only=True, frozen=True):
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


class Members(msgspec.Struct, kw_only=True, frozen=True):
    """The whole set of members; one that is not in it is no longer routed to."""

    wire_version: int = WIRE_VERSION
    members: list[Member]
    needs: dict[str, list[Need]] = {}
    """The models of this cluster and the roles each must have a server of: before the first is ready, too."""
    ttl_ms: int = 5000
    """Without a renewal for this long, the set counts as stale: what is known goes on, `/health` says so."""


class ServerStatus(msgspec.Struct, kw_only=True, frozen=True):
    """One row of `trtdisagg status`."""

    name: str
    role: Literal["context", "generation", "both", "proxy"]
    model: str | None = None
    state: ServerState
    reason: str | None = None
    """Why it is in this state, for people."""
    pid: int | None = None
    url: str | None = None
    gpus: list[str] = []
    cores: list[int] = []
    restarts: int = 0
    up_s: float | None = None
    """Since it was last ready."""
    stats: Stats = Stats()
    tokens_in_s: float = 0.0
    """Prompt tokens a second, over the last beats."""
    tokens_out_s: float = 0.0
    log_file: str | None = None


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
    events: list[str] = []
    """The last few, as lines for people."""


class DownRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    timeout_s: float | None = None
    """Deadline of the drain; None: the cluster file's."""
    force: bool = False
    """Kill at once."""
