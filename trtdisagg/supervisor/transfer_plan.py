"""How one server's KV moves: from a section of the cluster file to what is in its spec. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trtdisagg.config.key_types import Backend
from trtdisagg.config.server_keys import CacheTransceiverConfig
from trtdisagg.config.sizes import size_bytes
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.spec import EngineSpec, TransferSpec, Transport
from trtdisagg.supervisor.slots import Slot

_MPI_IS_DEPRECATED = "MPI is deprecated: it moves host memory only, and MPICH may end a server with its peer; use NIXL"


def transfer_spec(config: CacheTransceiverConfig, backend: Backend | None, path: str, *, on_gpu: bool) -> TransferSpec:
    """
    :param backend: the section's, or what is meant where it names none.
    :param path: of the section, for messages.
    :raises ConfigError: when the backend cannot move what it would have to.
    """
    buffer_bytes = size_bytes(config.buffer_size)
    return TransferSpec(
        transports=_transports(backend, path, on_gpu=on_gpu),
        nixl_plugin=config.nixl_plugin,
        lease_ms=config.kv_lease_ms,
        timeout_ms=config.kv_transfer_timeout_ms,
        max_tokens_in_buffer=config.max_tokens_in_buffer,
        buffer_bytes=buffer_bytes,
        zero_copy=config.zero_copy or not buffer_bytes,
        overlap=not config.disable_overlap,
        receive_parallel=config.receive_parallel,
        receive_concurrent=config.receive_concurrent,
        send_concurrency=config.send_max_concurrency,
        pipelined=config.enable_pipelined_transfer,
    )


def _transports(backend: Backend | None, path: str, *, on_gpu: bool) -> list[Transport]:
    match backend:
        case None:
            return []
        case "DEFAULT":
            return ["nixl"] if on_gpu else ["local", "nixl"]
        case "NIXL":
            return ["nixl"]
        case "UCX":
            return ["ucx"]
        case "MPI" if not on_gpu:
            return ["mpi"]
        case "LOCAL" if not on_gpu:
            return ["local"]
        case _:
            raise ConfigError(f"{path}.cache_transceiver_config.backend: {backend} moves host memory only, use NIXL")


def transfer_notices(new: Sequence[Slot], specs: Sequence[EngineSpec]) -> Iterator[str]:
    """One line for each thing that may surprise, once for each section.

    :param specs: of the same servers.
    """
    lines: dict[str, None] = {}
    is_pipelined = any(spec.transfer.pipelined and spec.role != "generation" for spec in specs)
    for slot, spec in zip(new, specs, strict=True):
        path = f"{slot.path}.cache_transceiver_config"
        lines.update(dict.fromkeys(_notices(path, spec)))
        if is_pipelined:
            lines.update(dict.fromkeys(_pipeline_notices(path, spec)))
    yield from lines


def _notices(path: str, spec: EngineSpec) -> Iterator[str]:
    transfer = spec.transfer
    if "mpi" in transfer.transports:
        yield f"{path}.backend: {_MPI_IS_DEPRECATED}"
    num_tokens = transfer.max_tokens_in_buffer
    if num_tokens is not None and num_tokens < spec.max_seq_len:
        yield (
            f"{path}.max_tokens_in_buffer: a prompt longer than {num_tokens} tokens (max_seq_len is "
            f"{spec.max_seq_len}) goes through the buffer in pieces; it never waits for itself"
        )


def _pipeline_notices(path: str, spec: EngineSpec) -> Iterator[str]:
    if spec.role != "generation" and not spec.enable_chunked_prefill:
        yield (
            f"{path}.enable_pipelined_transfer: without enable_chunked_prefill a prompt is computed in one piece, and "
            "nothing of it travels before"
        )
    if spec.role != "context" and not (spec.enable_block_reuse and spec.transfer.overlap):
        yield (
            f"{path}: nothing travels here ahead of its request (enable_pipelined_transfer of the context servers); "
            "that takes kv_cache_config.enable_block_reuse, and not disable_overlap"
        )
