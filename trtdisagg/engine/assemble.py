"""Puts one engine together from its spec, and takes it apart in the reverse order.

files -> dimensions, tokenizer -> KV pool -> runner (weights) -> transports -> transceiver -> executor
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import NamedTuple, TypeVar

import msgspec

from trtdisagg.cache.layout import rank_shape
from trtdisagg.cache.movers.rank import RankMover
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transceiver import Transceiver
from trtdisagg.cache.transports import open_transports
from trtdisagg.cache.waiting import wait_out
from trtdisagg.engine.executor import Deliver, Executor
from trtdisagg.engine.handover import TransceiverHandover
from trtdisagg.engine.http.delivery import Delivery
from trtdisagg.engine.http.listen import reachable, resolve
from trtdisagg.engine.limits import Limits
from trtdisagg.engine.progress import Progress, Pulse
from trtdisagg.engine.request import Request
from trtdisagg.engine.runner import ModelRunner
from trtdisagg.engine.sampling import Sampler
from trtdisagg.engine.serve import Loaded
from trtdisagg.errors import ConfigError
from trtdisagg.net import is_loopback
from trtdisagg.protocol.handover import KvLayout
from trtdisagg.protocol.kv_events import KvEvent
from trtdisagg.protocol.spec import EngineSpec, Stats
from trtdisagg.text.dimensions import ModelDimensions, read_dimensions
from trtdisagg.text.guided.guides import TokenGuides
from trtdisagg.text.model_files import files_at
from trtdisagg.text.tokenizer import Tokenizer, load_tokenizer

T = TypeVar("T")


class Parts(NamedTuple):
    """What an engine is made of, and its users touch."""

    executor: Executor
    transceiver: Transceiver | None
    """None: it hands nothing over."""
    tokenizer: Tokenizer


@asynccontextmanager
async def open_engine(
    spec: EngineSpec, secret: bytes, delivery: Delivery, stage: Callable[[str], None]
) -> AsyncIterator[Loaded]:
    """As `open_parts`, for a server."""
    async with open_parts(spec, secret, delivery.deliver, stage) as parts:
        yield Loaded(_Engine(parts.executor, parts.transceiver), parts.tokenizer)


@asynccontextmanager
async def open_parts(
    spec: EngineSpec, secret: bytes, deliver: Deliver | None, stage: Callable[[str], None]
) -> AsyncIterator[Parts]:
    """Open the engine of a spec, and close it with everything it has.

    :param deliver: as `Executor` wants it.
    :param stage: told what is going on, for people.
    :raises StartupError: when something it needs is missing.
    :raises ConfigError: when spec and model do not go together.
    """
    stage("model files")
    files = files_at(spec.model_path, served_name=spec.model)
    dims = await _in_thread(lambda: read_dimensions(files))
    tokenizer = await _in_thread(lambda: load_tokenizer(files))
    _check(spec, dims)
    async with AsyncExitStack() as stack:
        stage("KV cache")
        pool = stack.enter_context(KvPool(rank_shape(_layout(spec, dims), spec.rank), spec.num_blocks, spec.device))
        stage("weights")
        progress = Progress()
        runner = ModelRunner(
            files.path,
            dims,
            dtype=spec.dtype,
            quantization=spec.quantization,
            pool=pool,
            num_threads=spec.num_threads,
            progress=progress,
            max_batch_size=spec.max_batch_size,
            max_seq_len=spec.max_seq_len,
        )
        await _in_thread(runner.load)
        transceiver = handover = None
        if spec.transfer.transports:
            stage("transports")
            transceiver = await _open_transceiver(spec, secret, dims, pool, stack)
            handover = await stack.enter_async_context(TransceiverHandover(transceiver))
        executor = Executor(
            runner=runner,
            limits=_limits(spec, dims),
            eos_token_ids=tokenizer.eos_token_ids,
            handover=handover,
            deliver=deliver,
            progress=progress,
            guides=TokenGuides(tokenizer, dims.vocab_size),
            sampler=Sampler(runner.workers),
            ahead=None if spec.disable_overlap_scheduler else runner.ahead,
        )
        stack.push_async_callback(shut_down, executor)
        executor.start()
        yield Parts(executor, transceiver, tokenizer)


async def shut_down(executor: Executor) -> None:
    """End the engine's thread and wait for it, also when cancelled: it computes in memory that is closed next."""
    await wait_out(asyncio.ensure_future(asyncio.to_thread(executor.shutdown)))


class _Engine:
    """An executor whose counters include what was moved for it."""

    def __init__(self, executor: Executor, transceiver: Transceiver | None) -> None:
        self._executor = executor
        self._transceiver = transceiver

    def enqueue_request(self, request: Request) -> int:
        return self._executor.enqueue_request(request)

    def cancel_request(self, request_id: int, choice: int | None = None) -> None:
        self._executor.cancel_request(request_id, choice)

    def take_kv_events(self) -> list[KvEvent]:
        return self._executor.take_kv_events()

    def health(self) -> str | None:
        return self._executor.health()

    def pulse(self) -> Pulse:
        return self._executor.pulse()

    def stats(self) -> Stats:
        stats = self._executor.stats()
        if self._transceiver is None:
            return stats
        moved = self._transceiver.stats()
        return msgspec.structs.replace(
            stats,
            num_transfers_running=moved.num_transfers_running,
            num_transfer_bytes_total=moved.num_transfer_bytes_total,
            num_transfer_descriptors_total=moved.num_transfer_descriptors_total,
            transfer_seconds_total=moved.transfer_seconds_total,
            transfer_seconds_counts=moved.transfer_seconds_counts,
            num_expired_leases_total=moved.num_expired_leases_total,
            num_unread_holds_total=moved.num_unread_holds_total,
        )


async def _open_transceiver(
    spec: EngineSpec, secret: bytes, dims: ModelDimensions, pool: KvPool, stack: AsyncExitStack
) -> Transceiver:
    one_host = is_loopback(resolve(spec.host)[1][0])
    opening = open_transports(
        spec.transfer.transports,
        pool,
        incarnation=f"{spec.incarnation}/{spec.rank}",
        one_host=one_host,
        nixl_plugin=spec.transfer.nixl_plugin,
    )
    transports = await _in_thread(lambda: stack.enter_context(opening))
    layout = _layout(spec, dims)
    mover = await stack.enter_async_context(RankMover(layout, spec.rank, transports))
    transceiver = Transceiver(
        server=spec.name,
        incarnation=spec.incarnation,
        layout=layout,
        movers=[mover],
        secret=secret,
        host=reachable(spec.host),
        lease_ms=spec.transfer.lease_ms,
        transfer_timeout_ms=spec.transfer.timeout_ms,
    )
    return await stack.enter_async_context(transceiver)


def _check(spec: EngineSpec, dims: ModelDimensions) -> None:
    if spec.max_seq_len > dims.max_positions:
        raise ConfigError(
            f"max_seq_len is {spec.max_seq_len}, but the model {spec.model} knows {dims.max_positions} positions"
        )


def _layout(spec: EngineSpec, dims: ModelDimensions) -> KvLayout:
    return KvLayout(
        model=dims.fingerprint,
        dtype=spec.dtype,
        num_layers=dims.num_layers,
        num_kv_heads=dims.num_kv_heads,
        head_dim=dims.head_dim,
        tokens_per_block=spec.tokens_per_block,
        num_blocks=spec.num_blocks,
        parallel=spec.parallel,
    )


def _limits(spec: EngineSpec, dims: ModelDimensions) -> Limits:
    return Limits(
        max_batch_size=spec.max_batch_size,
        max_num_tokens=spec.max_num_tokens,
        max_seq_len=spec.max_seq_len,
        max_queue_size=spec.max_queue_size,
        num_blocks=spec.num_blocks,
        tokens_per_block=spec.tokens_per_block,
        vocab_size=dims.vocab_size,
        scheduler_policy=spec.scheduler_policy,
        enable_chunked_prefill=spec.enable_chunked_prefill,
        enable_block_reuse=spec.enable_block_reuse,
        enable_partial_reuse=spec.enable_partial_reuse,
        event_buffer_max_size=spec.event_buffer_max_size,
        dp_size=spec.parallel.dp_size,
        overlap_transfers=spec.transfer.overlap,
        keeps_records=spec.perf_metrics_max_requests > 0,
        model=dims.fingerprint,
    )


async def _in_thread(work: Callable[[], T]) -> T:
    """Do slow work beside the event loop. The thread is a daemon: who is asked to end does not wait for its weights."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as e:  # noqa: BLE001 - raised again where it is waited for
            error = e
        with suppress(RuntimeError):  # the loop is closed, nobody waits
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name="loading", daemon=True).start()
    return await done
