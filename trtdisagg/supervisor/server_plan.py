"""The plan of one child: a server's spec, environment and transports; the proxy's spec. Pure.

What only a run knows (incarnation, secret, parent, pipes) is left open in a spec and filled in at the start.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Literal

import msgspec

from trtdisagg.config.schema import Backend, ClusterFile, ServerSection
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.spec import Dtype, EngineSpec, ProxySpec, Role, SamplingDefaults, Transport, UpstreamServer
from trtdisagg.supervisor.memory import Pool
from trtdisagg.supervisor.placement import Spot
from trtdisagg.supervisor.slots import LOOPBACK, Slot, join_address
from trtdisagg.supervisor.state import PROXY

_PINS = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")
_TOKEN_ID_BYTES = 8
"""A token id in JSON, with its comma."""


class ChildPlan(msgspec.Struct, kw_only=True, frozen=True):
    """One process to start and keep: a server, or the proxy."""

    name: str
    role: Literal[Role, "proxy"]
    spec: EngineSpec | ProxySpec
    argv: list[str]
    """Without `--spec FILE`, which is added at the start."""
    env: dict[str, str] = {}
    """Added to the environment."""
    gpus: list[str] = []
    cores: list[int] = []
    """Empty: not pinned."""
    pool_bytes: int | None = None
    """KV cache; None: not known, or none."""

    @property
    def model(self) -> str | None:
        return self.spec.model if isinstance(self.spec, EngineSpec) else None

    @property
    def url(self) -> str:
        """host:port; with port 0 the real one comes with the report that it is ready."""
        return join_address(self.spec.host, self.spec.port)


def plan_server(
    slot: Slot,
    *,
    cluster: str,
    model: str,
    model_path: str,
    sampling_defaults: SamplingDefaults,
    spot: Spot,
    pool: Pool,
    backend: Backend | None,
    max_body_bytes: int,
) -> ChildPlan:
    """
    :param model: the name clients use.
    :param backend: of the transfer; None: no disaggregated serving.
    :param max_body_bytes: of a client's request.
    :raises ConfigError: when the section asks for what is not there.
    """
    section = slot.section
    return ChildPlan(
        name=slot.name,
        role=slot.role,
        spec=EngineSpec(
            cluster=cluster,
            name=slot.name,
            role=slot.role,
            incarnation="",
            model=model,
            model_path=model_path,
            sampling_defaults=sampling_defaults,
            device="cuda" if spot.gpus else "cpu",
            dtype=dtype_of(section, slot.path),
            host=bind_host(slot.host),
            port=slot.port,
            cores=spot.cores or None,
            num_threads=spot.num_threads,
            max_batch_size=section.max_batch_size,
            max_num_tokens=section.max_num_tokens,
            max_seq_len=pool.max_seq_len,
            max_queue_size=section.max_queue_size,
            # The generation leg is the client's request with the prompt's token ids added.
            max_body_bytes=max_body_bytes + _TOKEN_ID_BYTES * pool.max_seq_len,
            tokens_per_block=section.kv_cache_config.tokens_per_block,
            num_blocks=pool.num_blocks,
            transports=_transports(backend, slot.path, on_gpu=bool(spot.gpus)),
            lease_ms=section.cache_transceiver_config.kv_lease_ms,
            transfer_timeout_ms=section.cache_transceiver_config.kv_transfer_timeout_ms,
        ),
        argv=section.command or [sys.executable, "-m", "trtdisagg.engine"],
        env=_env(slot, spot),
        gpus=spot.gpus,
        cores=spot.cores,
        pool_bytes=pool.num_bytes,
    )


def plan_proxy(cluster: ClusterFile, name: str, servers: Sequence[UpstreamServer]) -> ChildPlan:
    """
    :param servers: those that are not ours to start.
    """
    config = cluster.proxy
    return ChildPlan(
        name=PROXY,
        role="proxy",
        spec=ProxySpec(
            cluster=name,
            host=bind_host(cluster.hostname),
            port=cluster.port,
            servers=list(servers),
            max_retries=cluster.max_retries,
            max_body_bytes=config.max_body_bytes,
            max_queue_size=config.max_queue_size,
            first_token_timeout_s=config.first_token_timeout_s,
            idle_timeout_s=config.idle_timeout_s,
        ),
        argv=[sys.executable, "-m", "trtdisagg", "proxy"],
    )


def bind_host(host: str) -> str:
    """`localhost` may mean two addresses, on which a free port need not be the same."""
    return LOOPBACK if host == "localhost" else host


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


def _transports(backend: Backend | None, path: str, *, on_gpu: bool) -> list[Transport]:
    match backend:
        case None:
            return []
        case "DEFAULT":
            return ["nixl"] if on_gpu else ["local", "nixl"]
        case "NIXL":
            return ["nixl"]
        case "LOCAL" if not on_gpu:
            return ["local"]
        case "LOCAL":
            raise ConfigError(f"{path}.cache_transceiver_config.backend: LOCAL moves host memory only, use NIXL")
        case _:
            raise ConfigError(f"{path}.cache_transceiver_config.backend: {backend} is not there yet, use NIXL")


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
        **slot.section.env,
    }
