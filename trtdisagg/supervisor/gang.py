"""The processes of one child: of a server one for each rank, of the proxy one.

    reports     rank 0's are the server's; of the others only a failure is, with its rank before it
    beats       rank 0's, as long as all the others beat, too
    lines       those of rank 2 begin with `[rank 2] `
    the end     when one fails, all are killed, and how it ended is how the server did; a rank that ends properly has
                been told to by rank 0, who is about to end as well

Knows nothing of servers, states or restarts.
"""

from __future__ import annotations

import functools
import signal
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import anyio
import anyio.abc
from msgspec.structs import replace

from trtdisagg.protocol.commands import Command
from trtdisagg.protocol.reports import Beat, Failed, Ready, Report
from trtdisagg.supervisor.processes import LostError
from trtdisagg.supervisor.words import exit_words

SILENT_S = 2.0
"""A rank without a beat for this long makes the server silent: it would not answer rank 0's next step."""
_FAREWELL_S = 10.0
"""From the proper end of one rank to that of the others."""


class Process(Protocol):
    """The process of a rank, here or on another node; see `ChildProcess`."""

    last_lines: deque[str]

    @property
    def pid(self) -> int | None: ...

    @property
    def returncode(self) -> int | None: ...

    async def run(self, on_start: Callable[[int], None]) -> int: ...

    def command(self, command: Command) -> None: ...

    def calm_down(self) -> None: ...

    def signal(self, number: signal.Signals) -> None: ...


class MakeRank(Protocol):
    """Makes the process of a rank, not yet started."""

    def __call__(
        self,
        rank: int,
        *,
        on_line: Callable[[bytes], None],
        on_report: Callable[[Report], None],
        on_end: Callable[[], None],
    ) -> Process: ...


class Gang:
    """
    :param in_turn: the others are started when rank 0 is, and not at all when it cannot be: they are told where it is.
    :param on_line, on_report: called with what the server says.
    """

    def __init__(
        self,
        make: MakeRank,
        num_ranks: int,
        *,
        in_turn: bool = False,
        on_line: Callable[[bytes], None],
        on_report: Callable[[Report], None],
    ) -> None:
        self._on_line = on_line
        self._on_report = on_report
        self._broken: int | None = None
        """The rank that ended first, if not properly; what the others say then is a consequence."""
        self._failed: int | None = None
        """The rank that reported a failure first."""
        self._ended_ranks: set[int] = set()
        self._one_ended, self._is_over = anyio.Event(), anyio.Event()
        self._may_follow = anyio.Event()
        if not in_turn:
            self._may_follow.set()
        self._beats = dict.fromkeys(range(1, num_ranks), time.monotonic())
        self._ranks = [
            make(
                rank,
                on_line=functools.partial(self._line, rank),
                on_report=functools.partial(self._report, rank),
                on_end=functools.partial(self._ended, rank),
            )
            for rank in range(num_ranks)
        ]

    @property
    def pids(self) -> list[int]:
        return [rank.pid for rank in self._ranks if rank.pid is not None]

    @property
    def last_lines(self) -> deque[str]:
        """Those of the rank that failed."""
        culprit = self._broken if self._failed is None else self._failed
        return self._ranks[culprit or 0].last_lines

    async def run(self, on_start: Callable[[list[int]], None]) -> str:
        """Start all ranks and see them to their end; then nothing of them is left, however this ends.

        :param on_start: called with the pids when all have one, that of rank 0 first.
        :returns: how, in words.
        :raises OSError: when one cannot be started; then all have ended.
        """
        codes: dict[int, int | OSError | LostError] = {}

        async def run_one(rank: int) -> None:
            if rank:
                await self._may_follow.wait()
            if 0 in self._ended_ranks:
                return self._missed(rank)
            try:
                codes[rank] = await self._ranks[rank].run(started)
            except (OSError, LostError) as e:
                codes[rank] = e
            return self._ended(rank)

        def started(_pid: int) -> None:
            if self._ranks[0].pid is not None:
                self._may_follow.set()
            if len(self.pids) == len(self._ranks):
                on_start(self.pids)

        async with anyio.create_task_group() as tasks:
            for rank in range(len(self._ranks)):
                tasks.start_soon(run_one, rank)
            await self._one_ended.wait()
            with anyio.move_on_after(_FAREWELL_S):
                await self._is_over.wait()
            self.signal(signal.SIGKILL)
        return self._how(codes)

    def signal(self, number: signal.Signals) -> None:
        """SIGTERM goes to rank 0, who alone knows what has to be done before the end and tells the others; SIGKILL to
        all, and then the end of rank 0 is that of the server."""
        if number == signal.SIGTERM:
            self._ranks[0].signal(number)
            return
        if self._broken is None:
            self._broken = 0
        for rank in self._ranks:
            rank.signal(number)

    def command(self, command: Command) -> None:
        self._ranks[0].command(command)

    # --- the end ----------------------------------------------------------------------------------------------------

    def _missed(self, rank: int) -> None:
        """Rank 0 had ended before this one was started."""
        self._ended_ranks.add(rank)
        if len(self._ended_ranks) == len(self._ranks):
            self._is_over.set()

    def _ended(self, rank: int) -> None:
        self._ended_ranks.add(rank)
        self._one_ended.set()
        self._may_follow.set()
        is_proper = self._ranks[rank].returncode == 0
        if not is_proper and self._broken is None:
            self._broken = rank
        if not is_proper or len(self._ended_ranks) == len(self._ranks):
            self._is_over.set()

    def _how(self, codes: dict[int, int | OSError | LostError]) -> str:
        rank = self._broken or 0
        code = codes[rank]
        if isinstance(code, OSError):
            raise code
        if isinstance(code, LostError):
            return str(code)
        return _of_rank(rank, exit_words(code))

    # --- what they say ----------------------------------------------------------------------------------------------

    def _line(self, rank: int, line: bytes) -> None:
        self._on_line(f"[rank {rank}] ".encode() + line if rank else line)

    def _report(self, rank: int, report: Report) -> None:
        match report:
            case Failed(message=message):
                if self._failed is None and self._broken in (None, rank):
                    self._failed = rank
                    self._on_report(replace(report, message=_of_rank(rank, message)))
            case Beat():
                self._beats[rank] = time.monotonic()
                if rank == 0 and min(self._beats.values()) > time.monotonic() - SILENT_S:
                    self._on_report(report)
            case _ if rank == 0:
                if isinstance(report, Ready):
                    for other in self._ranks[1:]:
                        other.calm_down()
                self._on_report(report)


def _of_rank(rank: int, words: str) -> str:
    return f"rank {rank}: {words}" if rank else words
