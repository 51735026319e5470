"""What a server or proxy counts, as it tells its agent with each beat."""

from __future__ import annotations

import msgspec


class Stats(msgspec.Struct, kw_only=True, frozen=True):
    """Counters of a server or proxy. Names ending in `_total` only grow."""

    num_running: int = 0
    num_waiting: int = 0
    num_steps_total: int = 0
    num_requests_total: int = 0
    num_failed_total: int = 0
    num_prompt_tokens_total: int = 0
    num_generation_tokens_total: int = 0
    num_blocks: int = 0
    num_used_blocks: int = 0
    num_held_blocks: int = 0
    """Of the used ones, held for a handover."""
    num_cached_blocks: int = 0
    """Of the others, those whose content can be found."""
    num_reused_blocks_total: int = 0
    """Blocks of prompts that were found."""
    num_missed_blocks_total: int = 0
    """Those that were not."""
    num_preemptions_total: int = 0
    num_quarantined_blocks: int = 0
    """Of the used ones, those of requests that have ended, which a transfer may still write into."""
    num_transfers_running: int = 0
    """KV that is on its way here."""
    num_transfers_total: int = 0
    """Received, as the next ones."""
    num_transfer_failures_total: int = 0
    num_transfer_bytes_total: int = 0
    num_transfer_descriptors_total: int = 0
    """Pieces that transfers were made of."""
    transfer_seconds_total: float = 0.0
    transfer_seconds_counts: list[int] = []
    """Transfers by their time: how many fell below each of `TRANSFER_BOUNDS_S`, beyond the one before, and at last how
    many above all. Only grow; empty: none yet."""
    num_waiting_by_model: dict[str, int] = {}
    """Of a proxy: `num_waiting`, which wait for room on a generation server."""
    num_unknown_caches: int = 0
    """Of a proxy: servers whose caches its routers look at, and do not know."""
    num_expired_leases_total: int = 0
    """Handovers that nobody came for in time."""
    num_unread_holds_total: int = 0
    """Handovers whose blocks were given back without having been read, for whatever reason."""
    first_token_counts: list[int] = []
    """Answers by their time to first token: how many fell below each of `LATENCY_BOUNDS_S`, beyond the one before, and
    at last how many above all. Only grow; empty: none yet."""
    per_token_counts: list[int] = []
    """The same of the time per output token, the first left out."""
