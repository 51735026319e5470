"""How a fake engine is at this moment: what legs, routes and reports have in common."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
import time
from pathlib import Path

from fakes.kv import Kv
from fakes.tickets import Tickets

from trtdisagg.protocol.latencies import LatencyCounts
from trtdisagg.protocol.reports import Beat, Ready
from trtdisagg.protocol.spec import EngineSpec, Role
from trtdisagg.protocol.stats import Stats

STALL_S = 2.0
"""As long as the real engine takes to notice that it is stuck."""


@dataclasses.dataclass
class Counters:
    """What happened to legs; all only grow, but `running` and `held`."""

    context: int = 0
    generation: int = 0
    aggregated: int = 0
    refused: int = 0
    running: int = 0
    cancelled: int = 0
    finished: int = 0
    tokens: int = 0
    prompt_tokens: int = 0
    fetched: int = 0
    """Handovers taken over by ticket."""
    recomputed: int = 0
    """Generation legs without a ticket: the prefix had to be computed."""
    replayed: int = 0
    """Those that went on behind more than the first token: a stream that broke elsewhere."""
    held: int = 0
    released: int = 0
    """Held for a request whose generation leg did not come."""
    expired: int = 0
    canaries: int = 0
    """Asked for with `/health_generate`."""


class Condition:
    """
    :param flags: how to misbehave.
    """

    def __init__(self, spec: EngineSpec, flags: argparse.Namespace) -> None:
        self.spec = spec
        self.flags = flags
        self.counters = Counters()
        self.first_token = LatencyCounts()
        self.per_token = LatencyCounts()
        self.role: Role = spec.role
        self.port = spec.port
        self.ready = False
        self.draining = False
        self.cut_short = False
        self.progress = 0
        self.stuck_since: float | None = None
        self.may_compute = asyncio.Event()
        """Cleared while it is stuck."""
        self.may_compute.set()
        self.may_generate = asyncio.Event()
        if not flags.hold_generation:
            self.may_generate.set()
        self.batch = asyncio.Semaphore(spec.max_batch_size if flags.one_batch else sys.maxsize)
        self.met: list[str] = []
        """Incarnations that it was asked to meet."""
        self.gone: list[str] = []
        """Those that it was told have ended."""
        self.idle = asyncio.Event()
        """Nothing runs and no ticket is held."""
        self.idle.set()
        self.changed = asyncio.Event()
        self.secret = Path(spec.secret_file).read_text().strip() if spec.secret_file else ""
        self.kv = Kv(spec)
        self.tickets = Tickets(spec, self.secret.encode(), self._expired)

    def stick(self) -> None:
        """Stop computing, with everything else as before."""
        self.stuck_since = time.monotonic()
        self.may_compute.clear()

    def unstick(self) -> None:
        self.stuck_since = None
        self.may_compute.set()

    @property
    def reason(self) -> str | None:
        """Why it is not healthy. A server that is not ours never notices that it is stuck."""
        if not self.ready:
            return "The server is starting"
        if self.draining:
            return "The server is draining"
        if self.stuck_since is None or self.flags.foreign or time.monotonic() - self.stuck_since < STALL_S:
            return None
        return "the engine made no progress for 2 s"

    @property
    def is_working(self) -> bool:
        return self.stuck_since is not None or (self.counters.running > 0 and self.may_generate.is_set())

    def beat(self) -> Beat:
        if self.is_working and self.stuck_since is None:
            self.progress += 1  # as the real one does within a long step
        return Beat(stats=self._stats(), progress=self.progress + self.counters.tokens, is_working=self.is_working)

    def readiness(self) -> Ready:
        spec = self.spec
        return Ready(
            host=spec.http_host,
            port=self.port,
            max_seq_len=spec.max_seq_len,
            num_blocks=spec.num_blocks,
            tokens_per_block=spec.tokens_per_block,
            max_batch_size=spec.max_batch_size,
            dtype=spec.dtype,
            role=self.role,
            kv_host=spec.host,
            kv_port=self.port if spec.transfer.transports else 0,
        )

    def tell_change(self) -> None:
        self.counters.held = len(self.tickets.held)
        if self.counters.running == 0 and not self.tickets.held:
            self.idle.set()
        else:
            self.idle.clear()
        self.changed.set()
        self.changed = asyncio.Event()

    def _expired(self) -> None:
        self.counters.expired += 1
        self.tell_change()

    def _stats(self) -> Stats:
        counters = self.counters
        return Stats(
            num_running=min(counters.running, self.spec.max_batch_size),
            num_waiting=max(0, counters.running - self.spec.max_batch_size),  # as counted: nobody really waits
            num_steps_total=counters.tokens,
            num_requests_total=counters.context + counters.generation + counters.aggregated,
            num_failed_total=counters.refused,
            num_prompt_tokens_total=counters.prompt_tokens,
            num_generation_tokens_total=counters.tokens,
            num_blocks=self.spec.num_blocks,
            num_used_blocks=min(counters.running + counters.held, self.spec.num_blocks),
            num_held_blocks=counters.held,
            num_transfers_total=counters.fetched,
            num_transfer_failures_total=counters.recomputed,
            first_token_counts=self.first_token.counts,
            per_token_counts=self.per_token.counts,
        )
