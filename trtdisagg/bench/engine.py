"""Runs the measuring program of the engine half, a program of its own that is not imported here."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO

import msgspec

from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.bench import Failure, Measure, Report, Stage, decode_bench_line


class MeasureError(TrtdisaggError):
    """There is nothing to tell.

    :param exit_code: what the program that measured said of it.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def measure_engine(measure: Measure, stage: Callable[[str], None], *, timeout_s: float) -> Report:
    """
    :param stage: told what is going on.
    :raises MeasureError: with the reason.
    """
    command = [sys.executable, "-m", "trtdisagg.engine.measure", msgspec.json.encode(measure).decode()]
    with TemporaryFile() as errors, _running(command, errors, timeout_s) as process:
        assert process.stdout is not None
        for text in process.stdout:
            match decode_bench_line(text):
                case Stage(words=words):
                    stage(words)
                case Failure(message=message, exit_code=exit_code):
                    raise MeasureError(message, exit_code)
                case report:
                    return report
        raise MeasureError(f"the measurement ended {_manner(process.wait(), timeout_s)}{_last_words(errors)}")


@contextmanager
def _running(command: list[str], errors: IO[bytes], timeout_s: float) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is killed at its deadline, and when the context is left."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as process:
        timer = threading.Timer(timeout_s, process.kill)
        timer.start()
        try:
            yield process
        finally:
            timer.cancel()
            timer.join()
            process.kill()


def _manner(returncode: int, timeout_s: float) -> str:
    return f"with exit code {returncode}" if returncode >= 0 else f"by signal {-returncode} (limit: {timeout_s:g} s)"


def _last_words(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1]}" if lines else ""
