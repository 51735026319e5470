"""Runs a program that ends with the process that started it, however that ends: `python -m trtdisagg.bench.tied PID
PROGRAM ...`. It takes this process's place, so it has its pid and is told its signals."""

from __future__ import annotations

import os
import sys

from trtdisagg.protocol.parent import end_with_parent


def tied(command: list[str]) -> list[str]:
    """The command that runs a command so; to be started from the main thread, whose end counts."""
    return [sys.executable, "-m", "trtdisagg.bench.tied", str(os.getpid()), *command]


def main() -> None:
    end_with_parent(int(sys.argv[1]))
    try:
        os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 (no shell wanted)
    except OSError as e:
        sys.exit(f"{sys.argv[2]} cannot be started: {e.strerror}")


if __name__ == "__main__":
    main()
