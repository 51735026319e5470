"""The engine's figures, as servers report them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from trtdisagg.engine.scheduler import Scheduler
from trtdisagg.protocol.stats import Stats


class Counters(msgspec.Struct):
    """What only grows; the names are those of `Stats`."""

    num_steps_total: int = 0
    num_requests_total: int = 0
    num_failed_total: int = 0
    num_prompt_tokens_total: int = 0
    num_generation_tokens_total: int = 0
    num_transfers_total: int = 0
    num_transfer_failures_total: int = 0


def stats_of(counters: Counters, schedulers: Sequence[Scheduler]) -> Stats:
    """Everything but bytes and seconds of transfers, which are the transceiver's.

    :param schedulers: by dp rank; what each has is added up.
    """

    def total(count: Callable[[Scheduler], int]) -> int:
        return sum(map(count, schedulers))

    return Stats(
        num_running=total(lambda s: s.num_active),
        num_waiting=total(lambda s: len(s.waiting)),
        num_blocks=total(lambda s: s.blocks.num_blocks),
        num_used_blocks=total(lambda s: s.blocks.num_used),
        num_cached_blocks=total(lambda s: s.blocks.num_cached),
        num_held_blocks=total(lambda s: s.num_held_blocks),
        num_quarantined_blocks=total(lambda s: s.num_quarantined_blocks),
        num_reused_blocks_total=total(lambda s: s.tables.num_reused_blocks),
        num_missed_blocks_total=total(lambda s: s.tables.num_missed_blocks),
        num_preemptions_total=total(lambda s: s.num_preemptions),
        **msgspec.structs.asdict(counters),
    )
