"""The plan of one server: its spec and its environment. Pure."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from trtdisagg.config.key_types import Backend
from trtdisagg.config.server_keys import RouterConfig, ServerSection
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.spec import Dtype, EngineSpec, SamplingDefaults, SchedulerPolicy
from trtdisagg.supervisor.child_plan import ChildPlan, digest
from trtdisagg.supervisor.claims import Spot
from trtdisagg.supervisor.memory import Pool
from trtdisagg.supervisor.profiling import Profile
from trtdisagg.supervisor.slots import Slot, section_settings
from trtdisagg.supervisor.transfer_plan import transfer_spec

_PINS = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
_POLICIES: dict[str, SchedulerPolicy] = {
    "MAX_UTILIZATION": "max_utilization",
    "GUARANTEED_NO_EVICT": "guaranteed_no_evict",
}
AMONG_RANKS = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""For servers whose ranks are all on one host: they meet where nobody else can listen."""
_PERF_REQUESTS = 1000
"""Whose times are kept where it is not said how many."""
_TOKEN_ID_BYTES = 8
"""A token id in JSON, with its comma."""


class ServerFacts(msgspec.Struct, kw_only=True, frozen=True):
    """What the servers of a plan have in common, or get from elsewhere than their section."""

    cluster: str
    model: str
    """The name clients use."""
    model_path: str
    sampling_defaults: SamplingDefaults
    backend: Backend | None
    """Of the transfer; None: no disaggregated serving."""
    max_body_bytes: int
    """Of a client's request."""
    perf_metrics_max_requests: int
    """Of the proxy."""
    secret_file: str | None
    profile: Profile | None


def plan_server(
    slot: Slot,
    facts: ServerFacts,
    spot: Spot,
    pool: Pool,
    *,
    parallel: Parallel,
    weights: Sequence[int],
    host: str,
) -> ChildPlan:
    """
    :param weights: bytes of those of each rank.
    :param host: where it listens.
    :raises ConfigError: when the section asks for what is not there.
    """
    section = slot.section
    return ChildPlan(
        name=slot.name,
        role=slot.role,
        spec=EngineSpec(
            cluster=facts.cluster,
            name=slot.name,
            role=slot.role,
            incarnation="",
            model=facts.model,
            model_path=facts.model_path,
            sampling_defaults=facts.sampling_defaults,
            device="cuda" if spot.gpus else "cpu",
            dtype=dtype_of(section, slot.path),
            host=host,
            port=slot.port,
            cores=spot.rank_cores[0] or None,
            num_threads=spot.num_threads,
            max_batch_size=section.max_batch_size,
            max_num_tokens=section.max_num_tokens,
            max_seq_len=pool.max_seq_len,
            max_queue_size=section.max_queue_size,
            # The generation leg is the client's request with the prompt's token ids added.
            max_body_bytes=facts.max_body_bytes + _TOKEN_ID_BYTES * pool.max_seq_len,
            tokens_per_block=section.kv_cache_config.tokens_per_block,
            num_blocks=pool.num_blocks,
            scheduler_policy=_POLICIES[section.scheduler_config.capacity_scheduler_policy],
            enable_chunked_prefill=section.enable_chunked_prefill,
            enable_block_reuse=section.kv_cache_config.enable_block_reuse,
            enable_partial_reuse=section.kv_cache_config.enable_partial_reuse,
            event_buffer_max_size=section.kv_cache_config.event_buffer_max_size,
            perf_metrics_max_requests=section.perf_metrics_max_requests
            or (_PERF_REQUESTS if section.return_perf_metrics else facts.perf_metrics_max_requests),
            quantization=section.quantization,
            disable_overlap_scheduler=section.disable_overlap_scheduler,
            stream_interval=section.stream_interval,
            transfer=transfer_spec(section.cache_transceiver_config, facts.backend, slot.path, on_gpu=bool(spot.gpus)),
            parallel=parallel,
        ),
        argv=section.command or [sys.executable, "-m", "trtdisagg.engine"],
        profile=facts.profile,
        env=_env(slot, spot),
        gpus=spot.gpus,
        cores=spot.cores,
        rank_cores=spot.rank_cores,
        pool_bytes=pool.num_bytes,
        rank_pools=pool.rank_bytes or [],
        rank_weights=list(weights),
        nodes=spot.nodes,
        settings=server_settings(slot, facts, spot),
    )


def server_settings(slot: Slot, facts: ServerFacts, spot: Spot) -> str:
    """See `ChildPlan.settings`.

    What the machine or the model's files say is left out: they change while servers run, and the file has not.
    """
    section = replace(section_settings(slot.section), gpus=None, cores=None, router=RouterConfig())
    common = replace(facts, cluster="", sampling_defaults=SamplingDefaults())
    nodes = [spot.nodes] if spot.nodes else []
    return digest(section, common, slot.host, slot.port, spot.gpus, spot.rank_cores, *nodes)


def dtype_of(section: ServerSection, path: str) -> Dtype:
    """The compute type of a server.

    :raises ConfigError: when the KV cache is to have another one.
    """
    dtype: Dtype = "bfloat16" if section.dtype == "auto" else section.dtype
    if section.kv_cache_config.dtype not in ("auto", dtype):
        raise ConfigError(
            f"{path}.kv_cache_config.dtype: a KV cache of another type than the weights' ({dtype}) is not there yet"
        )
    return dtype


def _env(slot: Slot, spot: Spot) -> dict[str, str]:
    """The pin to GPUs, and the number of threads for libraries that read it when they are loaded.

    On the CPU no GPU is visible, so that nothing is left on one by accident.
    """
    for name in _PINS:
        if name in slot.section.env:
            raise ConfigError(f"{slot.path}.env.{name}: is set from `gpus`; say there which ones")
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(spot.gpus),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "OMP_NUM_THREADS": str(spot.num_threads),
        "OMP_WAIT_POLICY": "PASSIVE",  # else threads spin between two products, on cores that others share
        **(AMONG_RANKS if len(spot.rank_cores) > 1 >= len(set(spot.nodes)) else {}),
        **({"TRTLLM_ENABLE_PDL": "1"} if slot.section.enable_pdl else {}),
        **slot.section.env,
    }
