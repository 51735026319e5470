"""The processes that are the ranks of the two servers: started once, and made ranks of one layout after the other."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

from trtdisagg.cache.measure.orders import Answer, Order, Refused
from trtdisagg.errors import HandoverError, TrtdisaggError

A = TypeVar("A", bound=msgspec.Struct)
_ANSWERS: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Answer)


class RankDiedError(TrtdisaggError):
    """A rank ended while it should have answered."""


class Server:
    """The ranks of one server."""

    def __init__(self, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        self._processes = processes

    def order(self, orders: Sequence[Order], answer_type: type[A]) -> list[A]:
        """Have each rank obey one order, all of them at once.

        :raises HandoverError: when one of them cannot.
        """
        processes = self._processes[: len(orders)]
        for process, order in zip(processes, orders, strict=True):
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended, which its answer will show
                process.stdin.write(msgspec.json.encode(order) + b"\n")
                process.stdin.flush()
        answers = [_answer(process) for process in processes]
        for answer in answers:
            if isinstance(answer, Refused):
                raise HandoverError(answer.message)
        assert all(isinstance(answer, answer_type) for answer in answers)
        return [answer for answer in answers if isinstance(answer, answer_type)]


@contextlib.contextmanager
def servers(*nums_of_ranks: int) -> Iterator[list[Server]]:
    """Servers of so many ranks at most; their processes end with the context."""
    with contextlib.ExitStack() as stack:
        yield [Server([_start(stack) for _ in range(num_ranks)]) for num_ranks in nums_of_ranks]


def _start(stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "trtdisagg.cache.measure.rank"]
    process = stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
    stack.callback(process.kill)
    return process


def _answer(process: subprocess.Popen[bytes]) -> Answer:
    assert process.stdout is not None
    if not (line := process.stdout.readline()):
        raise RankDiedError(f"a rank ended with exit code {process.wait()}")
    return _ANSWERS.decode(line)
