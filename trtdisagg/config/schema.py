"""The cluster file as a tree of frozen Structs: every key, its default and its meaning, written once, in this file and
those whose sections it names (server_keys, supervisor_keys, proxy_keys, slurm_keys).

A key's documentation is the string below it. Keys of TensorRT-LLM's files have TensorRT-LLM's names and meanings.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from trtdisagg.config.key_types import CountOrZero, Port, Section
from trtdisagg.config.proxy_keys import ConditionalDisaggConfig, OtlpConfig, ProcessingConfig, ProxyConfig
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.config.slurm_keys import SlurmConfig
from trtdisagg.config.supervisor_keys import AutoscaleConfig, DisaggCluster, ProfileConfig, SupervisionConfig


class ModelEntry(Section, frozen=True):
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


class ClusterFile(Section, frozen=True):
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
    profile: ProfileConfig | None = None
    """Which ranks run under a profiler; without it, none."""
    slurm: SlurmConfig = SlurmConfig()
    """The job that `trtdisagg slurm submit` makes of this file."""
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
