"""One process that works on texts, as the proxy sees it: jobs go out, answers come in, and at its end some are left."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import sys
from collections.abc import AsyncIterator
from typing import Self

import msgspec

from trtdisagg.protocol.frames import LENGTH_BYTES, FrameTooLargeError, frame, read_length
from trtdisagg.protocol.texts import Answer, Begin, Job
from trtdisagg.proxy.deadlines import Deadline, Deadlines

ARGV = [sys.executable, "-m", "trtdisagg.proxy.texts"]
LONG_BYTES = 32 * 1024
"""Of a body; such jobs wait for each other and hold no others up."""
STUCK_S = 60.0
"""A process that has one job for so long will not get over it."""
MAX_ANSWER_BYTES = 2**32 - 1
"""It is ours; a body of any length has been bounded before."""

_decoder: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def is_long(job: Job) -> bool:
    return len(job.body) > LONG_BYTES


class Task:
    """A job that somebody waits for."""

    __slots__ = ("answer", "given_at", "is_long", "job", "num_deaths")

    def __init__(self, job: Job, answer: asyncio.Future[Answer]) -> None:
        self.job = job
        self.answer = answer
        self.is_long = is_long(job)
        self.num_deaths = 0
        """Of processes that had it."""
        self.given_at = 0.0


class TextProcess:
    """
    :param patience: passes when it has been silent for too long.
    :ivar tasks: those it has, by the numbers of their jobs: at most a long one and a short one.
    """

    def __init__(
        self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: Deadline
    ) -> None:
        self.pid = pid
        self.patience = patience
        self.tasks: dict[int, Task] = {}
        self._loop = asyncio.get_running_loop()
        self._reader = reader
        self._writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, begin: Begin, deadlines: Deadlines) -> AsyncIterator[Self]:
        """Start one; it is killed at the end of the block.

        :raises OSError: when it cannot be started.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                child = await asyncio.create_subprocess_exec(*ARGV, str(os.getpid()), stdin=theirs.fileno())
            try:
                reader, writer = await asyncio.open_connection(sock=ours)
                writer.write(frame(msgspec.msgpack.encode(begin)))
                try:
                    yield cls(child.pid, reader, writer, deadlines.by(math.inf))
                finally:
                    writer.transport.abort()  # nothing that waits there is of use any more
            finally:
                with contextlib.suppress(ProcessLookupError):
                    child.kill()
                await child.wait()

    def is_free(self, *, is_long: bool) -> bool:
        return all(task.is_long != is_long for task in self.tasks.values())

    def give(self, task: Task) -> None:
        task.given_at = self._loop.time()
        self.tasks[task.job.number] = task
        self._renew_patience()
        self._writer.write(frame(msgspec.msgpack.encode(task.job)))

    def take(self, answer: Answer) -> None:
        """Tell whoever waits for it."""
        task = self.tasks.pop(answer.number)
        self._renew_patience()
        if not task.answer.done():
            task.answer.set_result(answer)

    def _renew_patience(self) -> None:
        self.patience.due = min((task.given_at for task in self.tasks.values()), default=math.inf) + STUCK_S

    async def next_answer(self) -> Answer | None:
        """Wait for an answer; None: the process has ended, or says what it should not."""
        try:
            length = read_length(await self._reader.readexactly(LENGTH_BYTES), MAX_ANSWER_BYTES)
            return _decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError, FrameTooLargeError, msgspec.DecodeError):
            return None
