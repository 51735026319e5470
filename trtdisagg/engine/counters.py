"""The engine's figures, as servers report them."""

from __future__ import annotations

import msgspec

from trtdisagg.cache.blocks import BlockManager
from trtdisagg.engine.scheduler import Scheduler
from trtdisagg.protocol.spec import Stats


class Counters(msgspec.Struct):
    """What only grows; the names are those of `Stats`."""

    num_steps_total: int = 0
    num_requests_total: int = 0
    num_failed_total: int = 0
    num_prompt_tokens_total: int = 0
    num_generation_tokens_total: int = 0
    num_transfers_total: int = 0
    num_transfer_failures_total: int = 0


def stats_of(counters: Counters, scheduler: Scheduler, blocks: BlockManager) -> Stats:
    """Everything but bytes and seconds of transfers, which are the transceiver's."""
    return Stats(
        num_running=scheduler.num_active,
        num_waiting=len(scheduler.waiting),
        num_blocks=blocks.num_blocks,
        num_used_blocks=blocks.num_used,
        num_cached_blocks=blocks.num_cached,
        num_held_blocks=scheduler.num_held_blocks,
        num_reused_blocks_total=scheduler.tables.num_reused_blocks,
        num_missed_blocks_total=scheduler.tables.num_missed_blocks,
        num_preemptions_total=scheduler.num_preemptions,
        **msgspec.structs.asdict(counters),
    )
