"""`top` where there is no terminal, and keys where there is one."""

from __future__ import annotations

import os
import pty
import signal
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from trtdisagg.cli.keyboard import Keyboard
from trtdisagg.cli.top import watch
from trtdisagg.supervisor.place import Place


def test_top_needs_a_terminal(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match="needs a terminal"):
        watch(Place(tmp_path, tmp_path))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The other side of a terminal that is stdin."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        yield ours
    os.close(ours)


def test_a_key_ends_the_wait_and_the_terminal_is_given_back(terminal: int) -> None:
    before = termios.tcgetattr(sys.stdin.fileno())
    with Keyboard() as keys:
        os.write(terminal, b"xq")
        keys.wait(20)
        assert not keys.pressed({"z"})
        os.write(terminal, b"q")
        keys.wait(20)
        assert keys.pressed({"q"})
        assert not keys.pressed({"q"}), "once"
    assert termios.tcgetattr(sys.stdin.fileno()) == before


def test_signals_wake_and_those_that_end_a_program_ask_to_leave(terminal: int) -> None:
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGWINCH)}
    with Keyboard() as keys:
        os.kill(os.getpid(), signal.SIGWINCH)
        keys.wait(20)
        assert not keys.pressed(set())
        os.kill(os.getpid(), signal.SIGTERM)
        keys.wait(20)
        assert keys.pressed(set())
    assert {n: signal.getsignal(n) for n in handlers} == handlers
