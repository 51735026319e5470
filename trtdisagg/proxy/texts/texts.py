"""The queue of work on texts: who waits, which process is asked, what when one dies.

Long bodies wait in a line of their own, so short ones never wait behind them. A process that dies is started again, at
once and then ever later; its jobs are done by another one, once. A prompt that is not read in time goes on unread: its
request is routed by estimates, and a server says what is wrong with it, if anything is.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from trtdisagg.errors import DeadlineError, OverloadedError, RequestError, TrtdisaggError, UnavailableError
from trtdisagg.protocol.texts import Answer, Begin, Detokenize, Job, Page, Prompt, Read, Tokenize, Unreadable
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.proxy.index.blocks import Root
from trtdisagg.proxy.request import Incoming
from trtdisagg.proxy.texts.process import Task, TextProcess, is_long
from trtdisagg.text.block_hash import KEY_BYTES

SHORT_TIMEOUT_S, LONG_TIMEOUT_S = 2.0, 10.0
"""A prompt that takes longer to read is routed by an estimate: that costs less than to wait. One of 32k tokens takes a
tenth of a second, and there may be a hundred of them before it."""
PAGE_TIMEOUT_S = 30.0
MAX_WAITING = 1024
"""In each of both lines."""
CALM_S = 30.0
"""A process that has lived so long starts again at once."""
FIRST_DELAY_S, MAX_DELAY_S = 0.1, 5.0

logger = logging.getLogger(__name__)


class Reading(NamedTuple):
    """A prompt that was read."""

    num_tokens: int
    """Of all prompts of the body."""
    token_ids: msgspec.Raw | None
    """A JSON array; None: there are several prompts."""
    chains: Mapping[Root, Sequence[int]]
    """The keys of the first prompt's full blocks."""


class Texts:
    """
    :param models: name -> where its tokenizer is.
    :param routed: those whose prompts are read before they are routed.
    """

    def __init__(
        self, models: Mapping[str, str], deadlines: Deadlines, *, num_processes: int, routed: Collection[str] = ()
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._models = models
        self._deadlines = deadlines
        self._num_processes = num_processes
        self._routed = frozenset(routed)
        self._begin = Begin(models=dict(models), warm=list(routed))
        self._numbers = itertools.count(1)
        self._short: deque[Task] = deque()
        self._long: deque[Task] = deque()
        self._processes: list[TextProcess] = []
        self._num_down = 0
        """Processes that wait until they are started again."""
        self._needed = asyncio.Event()
        if routed:
            self._needed.set()
        self.num_read = 0
        self.num_unread = 0
        """Prompts that went on unread."""

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    @property
    def num_waiting(self) -> int:
        return len(self._short) + len(self._long)

    def can_read(self, model: str) -> bool:
        return model in self._models

    async def read_for_routing(self, incoming: Incoming, roots: Callable[[str], Sequence[Root]]) -> Reading | None:
        """Read the prompt of a request where routing looks at its tokens; None: it does not, or they are not known.

        :param roots: of which chains are wanted for a model.
        """
        if incoming.model not in self._routed:
            return None
        return await self.read(incoming, roots(incoming.model))

    async def read(self, incoming: Incoming, roots: Sequence[Root] = ()) -> Reading | None:
        """Read the prompt of a request; None: it is not known, for whatever reason.

        :param roots: for which chains are wanted.
        """
        if not self.can_read(incoming.model):
            return None
        job = Read(
            number=next(self._numbers),
            model=incoming.model,
            chat=incoming.chat,
            body=incoming.body,
            roots=list(roots),
        )
        try:
            answer = await self._ask(job, LONG_TIMEOUT_S if is_long(job) else SHORT_TIMEOUT_S)
        except TrtdisaggError as e:
            logger.debug("%s: the prompt was not read: %s", incoming.request_id, e)
            self.num_unread += 1
            return None
        self.num_read += 1
        assert isinstance(answer, Prompt)
        token_ids = msgspec.Raw(answer.token_ids) if answer.token_ids else None
        chains = {root: _chain(c) for root, c in zip(roots, answer.chains, strict=True)}
        return Reading(answer.num_tokens, token_ids, chains)

    async def tokenize(self, model: str, body: bytes, max_model_len: int | None) -> bytes:
        """The body of an answer to /tokenize.

        :raises TrtdisaggError: what the client is to be told.
        """
        number = next(self._numbers)
        return await self._page(Tokenize(number=number, model=model, body=body, max_model_len=max_model_len))

    async def detokenize(self, model: str, body: bytes) -> bytes:
        """The body of an answer to /detokenize.

        :raises TrtdisaggError: what the client is to be told.
        """
        return await self._page(Detokenize(number=next(self._numbers), model=model, body=body))

    async def _page(self, job: Job) -> bytes:
        answer = await self._ask(job, PAGE_TIMEOUT_S)
        assert isinstance(answer, Page)
        return answer.body

    # --- the queue --------------------------------------------------------------------------------------------------

    async def _ask(self, job: Job, timeout_s: float) -> Answer:
        """
        :raises TrtdisaggError: the job's own fault, or that nobody is there to do it.
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
                answer = await task.answer
        except TimeoutError:
            raise DeadlineError(f"The text was not read within {timeout_s:g} s") from None
        finally:
            task.answer.cancel()
        if isinstance(answer, Unreadable):
            raise _as_error(answer)
        return answer

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


def _chain(keys: bytes) -> list[int]:
    assert len(keys) % KEY_BYTES == 0
    return memoryview(keys).cast("Q").tolist()


def _as_error(answer: Unreadable) -> TrtdisaggError:
    told = answer.error
    error = (RequestError if answer.status < 500 else TrtdisaggError)(told.message, param=told.param)
    error.http_status, error.type, error.code = answer.status, told.type, told.code
    return error
