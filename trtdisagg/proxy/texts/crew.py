"""The processes that work on texts, and who waits for them.

Long bodies wait in a line of their own, so short ones never wait behind them. A process that dies is started again, at
once and then ever later; its jobs are done by another one, once. What a job is, is known by work.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque

from trtdisagg.errors import DeadlineError, OverloadedError, UnavailableError
from trtdisagg.protocol.texts import Answer, Begin, Job
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.proxy.texts.process import Task, TextProcess

MAX_WAITING = 1024
"""In each of both lines."""
CALM_S = 30.0
"""A process that has lived so long starts again at once."""
FIRST_DELAY_S, MAX_DELAY_S = 0.1, 5.0

logger = logging.getLogger(__name__)


class Crew:
    """
    :param begin: the first word to each process.
    """

    def __init__(self, begin: Begin, deadlines: Deadlines, num_processes: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._begin = begin
        self._deadlines = deadlines
        self._num_processes = num_processes
        self._short: deque[Task] = deque()
        self._long: deque[Task] = deque()
        self._processes: list[TextProcess] = []
        self._num_down = 0
        """Processes that wait until they are started again."""
        self._needed = asyncio.Event()
        if begin.warm:
            self._needed.set()

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    @property
    def num_waiting(self) -> int:
        return len(self._short) + len(self._long)

    # --- jobs -------------------------------------------------------------------------------------------------------

    async def do(self, job: Job, timeout_s: float) -> Answer:
        """
        :raises OverloadedError, UnavailableError, DeadlineError: nobody is there to do it.
        """
        task = Task(job, self._loop.create_future())
        line = self._long if task.is_long else self._short
        if len(line) >= MAX_WAITING:
            raise OverloadedError(f"{MAX_WAITING} texts wait to be read already; ask again later")
        if self._num_down == self._num_processes:
            raise UnavailableError("The processes that read texts have failed and are about to start again; ask again")
        line.append(task)
        self._needed.set()
        self._hand_out()
        try:
            async with self._deadlines.by(self._loop.time() + timeout_s):
                return await task.answer
        except TimeoutError:
            raise DeadlineError(f"The text was not read within {timeout_s:g} s") from None
        finally:
            task.answer.cancel()

    def _hand_out(self) -> None:
        """Give each process what it can take."""
        for line, for_long in ((self._short, False), (self._long, True)):
            while line and (free := [p for p in self._processes if p.is_free(is_long=for_long)]):
                task = line.popleft()
                if not task.answer.done():  # else nobody waits for it any more
                    min(free, key=lambda process: len(process.tasks)).give(task)

    # --- processes --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the processes up, from the first job on, until cancelled."""
        await self._needed.wait()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(self._num_processes):
                tasks.create_task(self._keep())

    async def _keep(self) -> None:
        """Keep one process up."""
        delay_s = 0.0
        while True:
            began = self._loop.time()
            try:
                async with TextProcess.open(self._begin, self._deadlines) as process:
                    await self._use(process)
                logger.warning("process %d, which reads prompts, has ended", process.pid)
            except OSError as e:
                logger.warning("a process that reads prompts cannot be started: %s", e)
            is_calm = self._loop.time() - began > CALM_S
            await self._pause(delay_s)
            delay_s = 0.0 if is_calm else min(max(FIRST_DELAY_S, 2 * delay_s), MAX_DELAY_S)

    async def _pause(self, delay_s: float) -> None:
        if delay_s:
            self._num_down += 1
            try:
                await asyncio.sleep(delay_s)
            finally:
                self._num_down -= 1

    async def _use(self, process: TextProcess) -> None:
        """Have a process work until it ends or is stuck."""
        self._processes.append(process)
        try:
            async with process.patience:
                self._hand_out()
                while (answer := await process.next_answer()) is not None:
                    process.take(answer)
                    self._hand_out()
        except TimeoutError:
            logger.error("process %d has worked on one text for too long: it is killed", process.pid)
        finally:
            self._processes.remove(process)
            for task in process.tasks.values():
                self._give_back(task)
            self._hand_out()

    def _give_back(self, task: Task) -> None:
        """The process that had it has ended."""
        task.num_deaths += 1
        if task.answer.done():
            return
        if task.num_deaths == 1:
            (self._long if task.is_long else self._short).appendleft(task)
        else:
            task.answer.set_exception(UnavailableError("The processes that read texts have failed; ask again"))
