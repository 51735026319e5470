"""From a section's `cache_transceiver_config` to what is in a server's spec."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.plans import cluster_file, host, plan_of

from trtdisagg.config.key_types import Backend
from trtdisagg.config.server_keys import CacheTransceiverConfig, ServerSection
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.spec import EngineSpec, TransferSpec
from trtdisagg.supervisor.transfer_plan import transfer_spec

EVERYTHING = CacheTransceiverConfig(
    max_tokens_in_buffer=4096,
    buffer_size="1MB",
    zero_copy=True,
    disable_overlap=True,
    receive_parallel=False,
    receive_concurrent=False,
    send_max_concurrency=3,
    nixl_plugin="LIBFABRIC",
    enable_pipelined_transfer=True,
    kv_transfer_timeout_ms=7,
    kv_lease_ms=8,
)


def spec_of(config: CacheTransceiverConfig, backend: Backend | None = "NIXL", *, on_gpu: bool = False) -> TransferSpec:
    return transfer_spec(config, backend, "context_servers", on_gpu=on_gpu)


def test_every_key_reaches_the_spec() -> None:
    assert spec_of(EVERYTHING) == TransferSpec(
        transports=["nixl"],
        nixl_plugin="LIBFABRIC",
        lease_ms=8,
        timeout_ms=7,
        max_tokens_in_buffer=4096,
        buffer_bytes=2**20,
        zero_copy=True,
        overlap=False,
        receive_parallel=False,
        receive_concurrent=False,
        send_concurrency=3,
        pipelined=True,
    )


def test_defaults_are_those_of_the_spec() -> None:
    assert spec_of(CacheTransceiverConfig(), None) == TransferSpec()


def test_no_buffer_is_nothing_staged() -> None:
    spec = spec_of(CacheTransceiverConfig(buffer_size=0))
    assert (spec.buffer_bytes, spec.zero_copy) == (0, True)


@pytest.mark.parametrize(
    ("backend", "on_gpu", "transports"),
    [
        ("DEFAULT", False, ["local", "nixl"]),
        ("DEFAULT", True, ["nixl"]),
        ("NIXL", True, ["nixl"]),
        ("UCX", False, ["ucx"]),
        ("LOCAL", False, ["local"]),
        ("MPI", False, ["mpi"]),
        (None, False, []),
    ],
)
def test_transports_of_a_backend(backend: Backend | None, on_gpu: bool, transports: list[str]) -> None:
    assert spec_of(CacheTransceiverConfig(), backend, on_gpu=on_gpu).transports == transports


@pytest.mark.parametrize("backend", ["LOCAL", "MPI"])
def test_who_moves_no_device_memory_says_so(backend: Backend) -> None:
    path = r"context_servers\.cache_transceiver_config\.backend"
    with pytest.raises(ConfigError, match=f"{path}: {backend} moves host memory only, use NIXL"):
        spec_of(CacheTransceiverConfig(), backend, on_gpu=True)


def notices(config: CacheTransceiverConfig, **keys: Any) -> list[str]:
    sections = {
        name: ServerSection(cache_transceiver_config=config, num_instances=2, **keys)
        for name in ("context_servers", "generation_servers")
    }
    found = plan_of(cluster_file(**sections), host(num_cores=8)).notices
    return [notice for notice in found if "cache_transceiver_config" in notice]


def test_a_small_buffer_is_said_once_for_each_section() -> None:
    (context, generation) = notices(CacheTransceiverConfig(max_tokens_in_buffer=100))
    assert context.startswith("context_servers.cache_transceiver_config.max_tokens_in_buffer: a prompt longer than 100")
    assert "max_seq_len is 512" in context
    assert generation.startswith("generation_servers.")
    assert notices(CacheTransceiverConfig(max_tokens_in_buffer=512)) == []


def test_what_keeps_blocks_from_travelling_ahead_is_said() -> None:
    pipelined = CacheTransceiverConfig(enable_pipelined_transfer=True)
    assert notices(pipelined) == []
    [context] = notices(pipelined, enable_chunked_prefill=False)
    assert context.startswith("context_servers.")
    assert "without enable_chunked_prefill" in context
    assert notices(CacheTransceiverConfig(), enable_chunked_prefill=False) == []
    [generation] = notices(CacheTransceiverConfig(enable_pipelined_transfer=True, disable_overlap=True))
    assert generation.startswith("generation_servers.")
    assert "nothing travels here ahead of its request" in generation


def test_mpi_is_said_to_be_deprecated() -> None:
    (context, generation) = notices(CacheTransceiverConfig(backend="MPI"))
    assert context.startswith("context_servers.cache_transceiver_config.backend: MPI is deprecated")
    assert context.endswith("use NIXL")
    assert generation.startswith("generation_servers.")


def test_a_change_of_a_key_restarts_the_server() -> None:
    plans = [
        plan_of(cluster_file(context_servers=ServerSection(cache_transceiver_config=config))).servers[0]
        for config in (CacheTransceiverConfig(), CacheTransceiverConfig(zero_copy=True))
    ]
    assert plans[0].settings != plans[1].settings
    assert isinstance(plans[1].spec, EngineSpec)
    assert plans[1].spec.transfer.zero_copy
