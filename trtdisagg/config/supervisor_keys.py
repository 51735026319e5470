"""What the file says to the supervisor: when servers have failed, how many there are, where others register."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trtdisagg.config.key_types import Count, CountOrZero, Fraction, Seconds, Section


class SupervisionConfig(Section, frozen=True):
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
    node_timeout_s: Seconds = 10.0
    """On several nodes: one that the head has not heard of for so long is lost, and the cluster serves on without it;
    what runs there ends by itself when it has not heard of the head for so long."""
    backoff_s: Seconds = 1.0
    """Pause before the first restart; doubles with each death, to at most `max_backoff_s`, with jitter."""
    max_backoff_s: Seconds = 60.0
    """Longest pause before a restart."""


class ProfileConfig(Section, frozen=True):
    servers: list[str]
    """Names of servers, such as `generation-0`."""
    tool: Literal["nsys"] = "nsys"
    """Nsight Systems, whose `nsys` must be on the PATH of the node."""
    ranks: list[CountOrZero] = []
    """Which processes of each, where a server has several; without it, the first, 0."""
    args: list[str] = []
    """More options of `nsys profile`, such as `--trace=cuda,nvtx`."""
    output_dir: str = "profiles"
    """Where the reports go, `RUN.generation-0.1.rank0.nsys-rep` for the first start of that rank: relative to the
    cluster file, of a Slurm job to the run's folder."""


class AutoscaleBounds(Section, frozen=True):
    min: Count = 1
    """Never fewer servers."""
    max: Count = 8
    """Never more."""


class AutoscaleConfig(Section, frozen=True):
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


class MinimalInstances(Section, frozen=True):
    context_servers: Annotated[int, msgspec.Meta(ge=0)] = 1
    """With fewer context servers the cluster is not ready."""
    generation_servers: Annotated[int, msgspec.Meta(ge=0)] = 1
    """With fewer generation servers the cluster is not ready."""


class DisaggCluster(Section, frozen=True):
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
