"""Puts one engine together from its spec, and takes it apart in the reverse order.

files -> dimensions, tokenizer -> other ranks -> KV pool, weights -> transports -> transceiver -> executor
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import msgspec

from trtdisagg.cache.events import BlockListener
from trtdisagg.cache.mover import Mover
from trtdisagg.cache.transceiver import Transceiver
from trtdisagg.cache.waiting import wait_out
from trtdisagg.engine.executor import Deliver, Executor
from trtdisagg.engine.gang.leader import LeaderRunner, Opened, open_gang
from trtdisagg.engine.handover import TransceiverHandover
from trtdisagg.engine.http.delivery import Delivery
from trtdisagg.engine.http.listen import reachable
from trtdisagg.engine.interfaces import Runner
from trtdisagg.engine.limits import Limits
from trtdisagg.engine.progress import Progress, Pulse
from trtdisagg.engine.request import Request
from trtdisagg.engine.sampling import Sampler
from trtdisagg.engine.serve import Loaded
from trtdisagg.engine.shard import open_mover, open_shard
from trtdisagg.engine.threads import in_daemon
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.handover import KvLayout, Ticket
from trtdisagg.protocol.kv_events import KvEvent
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.protocol.stats import Stats
from trtdisagg.text.dimensions import ModelDimensions, division_problems, read_dimensions
from trtdisagg.text.guided.guides import TokenGuides
from trtdisagg.text.model_files import files_at
from trtdisagg.text.tokenizer import Tokenizer, load_tokenizer


class Parts(NamedTuple):
    """What an engine is made of, and its users touch."""

    executor: Executor
    transceiver: Transceiver | None
    """None: it hands nothing over."""
    tokenizer: Tokenizer


@asynccontextmanager
async def open_engine(
    spec: EngineSpec, secret: bytes, delivery: Delivery, stage: Callable[[str], None], on_lost: Callable[[str], None]
) -> AsyncIterator[Loaded]:
    """As `open_parts`, for a server."""
    async with open_parts(spec, secret, delivery.deliver, stage, on_lost) as parts:
        yield Loaded(_Engine(parts.executor, parts.transceiver), parts.tokenizer, parts.transceiver)


@asynccontextmanager
async def open_parts(
    spec: EngineSpec,
    secret: bytes,
    deliver: Deliver | None,
    stage: Callable[[str], None],
    on_lost: Callable[[str], None] | None = None,
) -> AsyncIterator[Parts]:
    """Open the engine of a spec, and close it with everything it has.

    :param deliver: as `Executor` wants it.
    :param stage: told what is going on, for people.
    :param on_lost: told why, at once, when another rank of the server is gone; the executor then serves no more.
    :raises StartupError: when something it needs is missing, or another rank does not come.
    :raises ConfigError: when spec and model do not go together.
    """
    stage("model files")
    files = files_at(spec.model_path, served_name=spec.model)
    dims = await in_daemon(lambda: read_dimensions(files))
    tokenizer = await in_daemon(lambda: load_tokenizer(files))
    _check(spec, dims)
    async with AsyncExitStack() as stack:
        progress = Progress()
        opened = await _gather(spec, secret, on_lost, stage, stack)
        ranks = opened.ranks if opened else None
        shard = await stack.enter_async_context(open_shard(spec, dims, ranks, progress, stage))
        runner: Runner = shard.runner
        if opened is not None:
            stage("other ranks")
            await opened.gang.loaded()
            progress.add(opened.gang.num_ticks)
            runner = LeaderRunner(runner, opened.gang)
        transceiver = handover = None
        if spec.transfer.transports:
            stage("transports")
            movers: list[Mover] = [await stack.enter_async_context(open_mover(spec, secret, shard))]
            movers += await opened.movers() if opened else []
            transceiver = await _open_transceiver(spec, secret, shard.layout, movers, stack)
            handover = await stack.enter_async_context(TransceiverHandover(transceiver))
        executor = Executor(
            runner=runner,
            limits=_limits(spec, dims),
            eos_token_ids=tokenizer.eos_token_ids,
            handover=handover,
            deliver=deliver,
            progress=progress,
            guides=TokenGuides(tokenizer, dims.vocab_size),
            sampler=Sampler(shard.runner.workers),
            ahead=None if spec.disable_overlap_scheduler or opened else shard.runner.ahead,
        )
        stack.push_async_callback(shut_down, executor)
        executor.start()
        if opened is not None:
            opened.gang.ended.add_done_callback(lambda ended: executor.give_up(ended.result()))
        yield Parts(executor, transceiver, tokenizer)


async def _gather(
    spec: EngineSpec,
    secret: bytes,
    on_lost: Callable[[str], None] | None,
    stage: Callable[[str], None],
    stack: AsyncExitStack,
) -> Opened | None:
    """The other ranks of the server; None: there are none."""
    if spec.parallel.num_ranks == 1:
        return None
    stage("ranks")
    return await stack.enter_async_context(open_gang(spec, secret, on_lost))


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

    @property
    def root_model(self) -> str:
        return self._executor.root_model

    def listen(self, listener: BlockListener) -> None:
        self._executor.listen(listener)

    def unlisten(self, listener: BlockListener) -> None:
        self._executor.unlisten(listener)

    def health(self) -> str | None:
        return self._executor.health()

    def release(self, ticket: Ticket) -> None:
        if self._transceiver is not None:
            self._transceiver.release(ticket)

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
    spec: EngineSpec, secret: bytes, layout: KvLayout, movers: Sequence[Mover], stack: AsyncExitStack
) -> Transceiver:
    transceiver = Transceiver(
        server=spec.name,
        incarnation=spec.incarnation,
        layout=layout,
        movers=movers,
        secret=secret,
        host=reachable(spec.host),
        lease_ms=spec.transfer.lease_ms,
        transfer_timeout_ms=spec.transfer.timeout_ms,
    )
    return await stack.enter_async_context(transceiver)


def _check(spec: EngineSpec, dims: ModelDimensions) -> None:
    if reasons := division_problems(dims, spec.parallel):
        raise ConfigError(f"the model {spec.model} cannot be divided like this: {'; '.join(reasons)}")
    if spec.max_seq_len > dims.max_positions:
        raise ConfigError(
            f"max_seq_len is {spec.max_seq_len}, but the model {spec.model} knows {dims.max_positions} positions"
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
        pipelined_transfers=spec.transfer.pipelined,
        model=dims.fingerprint,
    )
