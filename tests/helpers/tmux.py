"""A real terminal for tests: a tmux of their own, whose screen can be read and whose window can change its size."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")

_LOOK_AGAIN_S = 0.1


class Terminal:
    """One command in a terminal.

    :param name: of the tmux server.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def tmux(self, *args: str) -> str:
        return subprocess.run(
            ["tmux", "-L", self._name, "-f", "/dev/null", *args], check=True, capture_output=True, text=True, timeout=60
        ).stdout

    def screen(self) -> list[str]:
        return [line.rstrip() for line in self.tmux("capture-pane", "-p", "-t", "s").splitlines()]

    def scroll_back(self) -> list[str]:
        return [line.rstrip() for line in self.tmux("capture-pane", "-p", "-S", "-", "-t", "s").splitlines()]

    def keys(self, *keys: str) -> None:
        self.tmux("send-keys", "-t", "s", *keys)

    def resize(self, width: int, height: int) -> None:
        self.tmux("resize-window", "-t", "s", "-x", str(width), "-y", str(height))

    def until(self, is_so: Callable[[list[str]], bool], timeout_s: float = 60) -> list[str]:
        """:returns: the screen on which it was so."""
        deadline = time.monotonic() + timeout_s
        while not is_so(screen := self.screen()):
            assert time.monotonic() < deadline, "never came true:\n" + "\n".join(screen)
            time.sleep(_LOOK_AGAIN_S)  # a terminal tells nobody that it has changed
        return screen


@contextlib.contextmanager
def terminal(
    command: Sequence[str], *, env: Mapping[str, str], cwd: Path, width: int, height: int
) -> Iterator[Terminal]:
    """A shell prompt after which a command was given; the terminal goes away at the end."""
    it = Terminal(f"test-{uuid.uuid4().hex[:8]}")
    # readline, which pytest imports, puts the size of another terminal into the environment.
    said = shlex.join(
        ["env", "-u", "COLUMNS", "-u", "LINES", *(f"{key}={value}" for key, value in env.items()), *command]
    )
    script = f"trap : INT; cd {shlex.quote(str(cwd))}; echo BEFORE; {said}; echo exit status $?; exec cat"
    try:
        it.tmux("new-session", "-d", "-s", "s", "-x", str(width), "-y", str(height), f"sh -c {shlex.quote(script)}")
        yield it
    finally:
        it.tmux("kill-server")
