"""What a child tells its agent, and the pipe on which it does: one JSON line a report.

Writing never blocks, because a child's loop must not wait for its agent: a beat that does not fit into the pipe is
dropped, since the next one says the same and more; anything else is kept and goes first the next time. A pipe without
a reader means that the agent is gone; ending then is the parent-death signal's job (protocol/parent.py), not this
file's.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from typing import Literal

import msgspec

from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.spec import Role
from trtdisagg.protocol.stats import Stats

MAX_LINE_BYTES = 4096
"""PIPE_BUF of Linux: a line up to this length is written whole or not at all."""


class Loading(msgspec.Struct, tag="loading", kw_only=True, frozen=True):
    stage: str
    """For people: `weights`, `warm-up`, ..."""


class Ready(msgspec.Struct, tag="ready", kw_only=True, frozen=True):
    """The child can serve: model loaded, one token generated, sockets open."""

    host: str
    port: int
    wire_version: int = WIRE_VERSION
    max_seq_len: int = 0
    num_blocks: int = 0
    tokens_per_block: int = 0
    max_batch_size: int = 0
    dtype: str = ""
    role: Role | None = None
    """The one it has now; said again when it has changed."""
    kv_host: str = ""
    kv_port: int = 0
    """Where other servers meet it for KV; 0: it hands nothing over."""


class Linked(msgspec.Struct, tag="linked", kw_only=True, frozen=True):
    """A generation server has met a context server it was told of, or cannot."""

    server: str
    incarnation: str
    transport: str = ""
    direction: Literal["", "pull", "push"] = ""
    gb_s: float = 0.0
    """Of the test block that was moved."""
    latency_us: float = 0.0
    error: str | None = None
    """Why there is no link: prompts of that server are computed again here."""


class Beat(msgspec.Struct, tag="beat", kw_only=True, frozen=True):
    """Twice a second while the process is alive, whatever its loops do: those show in `progress`."""

    stats: Stats
    progress: int = 0
    """Grows whenever a part of a step is computed; several times a second, also within a long step."""
    is_working: bool = False
    """There is something to compute: while this is so and `progress` stands still, the server is stuck."""


class Failed(msgspec.Struct, tag="failed", kw_only=True, frozen=True):
    """The child cannot go on and ends itself; `message` is the one clear line for people."""

    message: str
    fatal: bool = False
    """Starting it again cannot help (a missing model, a wrong file)."""


Report = Loading | Ready | Linked | Beat | Failed

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


def decode_report(line: bytes) -> Report:
    """Decode one line from the pipe.

    :raises msgspec.DecodeError: when it is not a report.
    """
    return _decoder.decode(line)


class Reporter:
    """The child's end of the pipe. Thread-safe.

    :param fd: the inherited descriptor, which is taken over; None (started by hand): reports go nowhere.
    """

    def __init__(self, fd: int | None) -> None:
        self._fd = fd
        self._unsent: deque[bytes] = deque()
        self._lock = threading.Lock()
        if fd is not None:
            os.set_blocking(fd, False)
            os.set_inheritable(fd, False)  # noqa: FBT003 (positional only)

    @property
    def connected(self) -> bool:
        """Whether there is a reader, as far as known."""
        return self._fd is not None

    def send(self, report: Report) -> None:
        """Write a report, or keep it until there is room; never waits."""
        line = _encode(report)
        with self._lock:
            if self._fd is None:
                return
            if isinstance(report, Beat):
                if self._flush():
                    self._write(line)
            else:
                self._unsent.append(line)
                self._flush()

    def close(self) -> None:
        """Write what is left, if there is room, and close the pipe."""
        with self._lock:
            if self._fd is not None:
                self._flush()
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _flush(self) -> bool:
        while self._unsent and self._write(self._unsent[0]):
            self._unsent.popleft()
        return not self._unsent

    def _write(self, line: bytes) -> bool:
        if self._fd is None:
            return False
        try:
            os.write(self._fd, line)
        except BlockingIOError:
            return False
        except BrokenPipeError:
            os.close(self._fd)
            self._fd = None
            return False
        return True


def _encode(report: Report) -> bytes:
    line = _encoder.encode(report) + b"\n"
    if len(line) > MAX_LINE_BYTES:
        assert isinstance(report, Failed), "only a failure carries text of any length"
        # A character takes at most 6 bytes in JSON, so this always fits.
        short = msgspec.structs.replace(report, message=report.message[: MAX_LINE_BYTES // 8] + " ...")
        line = _encoder.encode(short) + b"\n"
    return line
