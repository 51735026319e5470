"""Conversations begin when they are due and there is room, and each asks one turn after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from random import Random

from trtdisagg.bench.serve.asked import Asked, Workload
from trtdisagg.bench.serve.bodies import PATHS, Bodies
from trtdisagg.bench.serve.client import Client
from trtdisagg.bench.serve.load import Load
from trtdisagg.bench.serve.outcome import Outcome, Progress, Watch
from trtdisagg.bench.serve.self_watch import SelfWatch
from trtdisagg.bench.serve.stopping import unless_stopped

MANY = 32
"""That begin together; then what has come in the meantime is looked at."""


class Conversations:
    """
    :ivar outcomes: of requests, in the order of their ends.
    :ivar num_unfinished: requests on their way when it was stopped.
    :ivar held_s: longest time that one was due, and waited for another to end.
    """

    def __init__(
        self, load: Load, workload: Workload, client: Client, bodies: Bodies, watch: Watch, *, is_warmup: bool = False
    ) -> None:
        self.outcomes: list[Outcome] = []
        self.num_unfinished = 0
        self.held_s = 0.0
        self._load = load
        self._workload = workload
        self._client = client
        self._bodies = bodies
        self._watch = watch
        self._is_warmup = is_warmup
        self._room = asyncio.Semaphore(load.concurrency) if load.concurrency else None
        self._num_begun = self._num_ended = self._num_failed = self._num_tokens = 0

    async def go(
        self,
        openings: Sequence[Asked],
        due_s: Sequence[float],
        stop: asyncio.Event,
        self_watch: SelfWatch | None = None,
    ) -> None:
        """Hold these conversations.

        :param due_s: when each begins, from now.
        :param self_watch: told how late they began.
        """
        await unless_stopped(
            self._all(openings, due_s, self_watch), stop, lambda: self._watch(self._progress(len(openings)))
        )

    async def _all(self, openings: Sequence[Asked], due_s: Sequence[float], self_watch: SelfWatch | None) -> None:
        begun_at = could_begin_at = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for index, (asked, due) in enumerate(zip(openings, due_s, strict=True)):
                wait_s = begun_at + due - time.monotonic()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                if self_watch is not None and due:
                    self_watch.begin_late_s.append(time.monotonic() - max(begun_at + due, could_begin_at))
                if self._room is not None:
                    await self._room.acquire()
                    could_begin_at = time.monotonic()
                    self.held_s = max(self.held_s, could_begin_at - begun_at - due)
                if index % MANY == MANY - 1:
                    await asyncio.sleep(0)
                self._num_begun += 1
                tasks.create_task(self._converse(index, asked))

    async def _converse(self, index: int, asked: Asked | None) -> None:
        try:
            while asked is not None:
                if asked.think_s:
                    await asyncio.sleep(asked.think_s)
                outcome, answer = await self._ask(index, asked)
                self._note(outcome)
                asked = self._workload.reply(asked, answer) if outcome.is_completed else None
        finally:
            self._num_ended += 1
            if self._room is not None:
                self._room.release()

    async def _ask(self, index: int, asked: Asked) -> tuple[Outcome, str]:
        load = self._load
        outcome = Outcome(index=index, max_tokens=asked.max_tokens)
        body = self._bodies.encode(asked)
        self.num_unfinished += 1
        answer = await self._client.ask(
            PATHS[load.endpoint],
            body,
            outcome,
            is_streamed=load.is_streamed,
            timeout_s=load.timeout_s,
            leave_after=_leaves_after(load, index, asked),
            keeps_text=True,
        )
        self.num_unfinished -= 1
        if outcome.num_input_tokens is None:
            outcome.num_input_tokens = asked.num_input_tokens
        return outcome, answer

    def _note(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self._num_failed += outcome.error is not None
        self._num_tokens += (outcome.num_tokens or 0) if outcome.is_completed else 0

    def _progress(self, num_prompts: int) -> Progress:
        return Progress(
            num_prompts=num_prompts,
            num_begun=self._num_begun,
            num_ended=self._num_ended,
            num_failed=self._num_failed,
            num_tokens=self._num_tokens,
            is_warmup=self._is_warmup,
        )


def _leaves_after(load: Load, index: int, asked: Asked) -> int | None:
    """With which token the client leaves, if it does: the same for the same seed and request."""
    if not load.cancel_rate:
        return None
    random = Random(f"leave {load.seed} {index} {asked.turn}")
    return random.randint(1, asked.max_tokens) if random.random() < load.cancel_rate else None
