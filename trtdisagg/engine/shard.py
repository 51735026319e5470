"""What each rank of a server has, the first as any other: its part of the weights and of the KV cache."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import NamedTuple

from trtdisagg.cache.layout import rank_shape
from trtdisagg.cache.movers.rank import RankMover
from trtdisagg.cache.movers.staging import staging_bytes
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transports import open_transports
from trtdisagg.engine.http.listen import reachable, resolve
from trtdisagg.engine.progress import Progress
from trtdisagg.engine.ranks import Ranks
from trtdisagg.engine.runner import ModelRunner
from trtdisagg.engine.threads import in_daemon
from trtdisagg.net import is_loopback
from trtdisagg.protocol.handover import KvLayout
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.text.dimensions import ModelDimensions, kv_layout


class Shard(NamedTuple):
    pool: KvPool
    runner: ModelRunner
    layout: KvLayout
    """Of the whole server's KV cache."""


@asynccontextmanager
async def open_shard(
    spec: EngineSpec, dims: ModelDimensions, ranks: Ranks | None, progress: Progress, stage: Callable[[str], None]
) -> AsyncIterator[Shard]:
    """Load a rank, and give its memory back at the end; until then one thread may compute with it.

    :param ranks: the others, which load at the same time; None: there are none.
    :param stage: told what is going on, for people.
    :raises StartupError: when memory or weights are missing.
    :raises ConfigError: when the model needs something that is not supported.
    """
    stage("KV cache")
    layout = kv_layout(spec, dims)
    shape = rank_shape(layout, spec.rank)
    buffer_bytes = staging_bytes(spec.transfer, shape, spec.num_blocks)
    with KvPool(shape, spec.num_blocks, spec.device, staging_bytes=buffer_bytes) as pool:
        stage("weights")
        runner = ModelRunner(
            spec.model_path,
            dims,
            dtype=spec.dtype,
            quantization=spec.quantization,
            pool=pool,
            num_threads=spec.num_threads,
            progress=progress,
            max_batch_size=spec.max_batch_size,
            max_seq_len=spec.max_seq_len,
            parallel=spec.parallel,
            rank=spec.rank,
            ranks=ranks,
        )
        await in_daemon(runner.load)
        yield Shard(pool, runner, layout)


@asynccontextmanager
async def open_mover(spec: EngineSpec, secret: bytes, shard: Shard) -> AsyncIterator[RankMover]:
    """What moves the KV of this rank.

    :raises StartupError: when a transport cannot be opened.
    """
    opening = open_transports(
        spec.transfer.transports,
        shard.pool,
        incarnation=f"{spec.incarnation}/{spec.rank}",
        one_host=is_loopback(resolve(spec.host)[1][0]),
        nixl_plugin=spec.transfer.nixl_plugin,
        host=reachable(spec.host),
    )
    with ExitStack() as stack:
        transports = await in_daemon(lambda: stack.enter_context(opening))
        mover = RankMover(
            shard.layout,
            spec.rank,
            shard.pool,
            transports,
            incarnation=spec.incarnation,
            spec=spec.transfer,
            host=reachable(spec.host),
            secret=secret,
        )
        async with mover:
            yield mover
