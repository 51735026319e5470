"""Runs a measuring program of the engine half, a program of its own that is not imported here."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import IO, Any, TypeVar

import msgspec

from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.bench import Failure, Stage

R = TypeVar("R", bound=msgspec.Struct)
_ERROR = "trtdisagg: error: "


class MeasureError(TrtdisaggError):
    """There is nothing to tell.

    :param exit_code: what the program that measured said of it.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def measured(
    module: str, measure: msgspec.Struct, report_type: type[R], stage: Callable[[str], None], *, timeout_s: float
) -> R:
    """Have a module measure.

    :param measure: what; its only argument, as JSON.
    :param stage: told what is going on.
    :raises MeasureError: with the reason.
    """
    lines: msgspec.json.Decoder[Any] = msgspec.json.Decoder(Stage | Failure | report_type)
    command = [sys.executable, "-m", module, msgspec.json.encode(measure).decode()]
    with TemporaryFile() as errors, _running(command, errors, timeout_s) as process:
        assert process.stdout is not None
        for text in process.stdout:
            match lines.decode(text):
                case Stage(words=words):
                    stage(words)
                case Failure(message=message, exit_code=exit_code):
                    raise MeasureError(message, exit_code)
                case report:
                    assert isinstance(report, report_type)
                    return report
        raise MeasureError(f"the measurement ended {_manner(process.wait(), timeout_s)}{last_words(errors)}")


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


def last_words(errors: IO[bytes]) -> str:
    """Of a program, as the end of a sentence."""
    errors.seek(0)
    return ending(errors.read())


def ending(said: bytes) -> str:
    """What a program ended with, as the end of a sentence: the error that it named, or its last line."""
    lines = said.decode(errors="replace").strip().splitlines()
    named = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    return "".join(f": {line}" for line in (named or lines)[-1:])
