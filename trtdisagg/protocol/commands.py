"""What an agent tells its child to do, and the pipe on which it does: one JSON line a command.

Reading never waits; who has an event loop calls `receive` whenever `fd` can be read. The end of the pipe means that
nobody commands any more; ending then is the parent-death signal's job (protocol/parent.py), not this file's.
"""

from __future__ import annotations

import logging
import os

import msgspec

from trtdisagg.protocol.reports import MAX_LINE_BYTES
from trtdisagg.protocol.spec import PeerAddress, Role

log = logging.getLogger(__name__)


class SwitchRole(msgspec.Struct, tag="switch_role", kw_only=True, frozen=True):
    """Go on in another role; answered by a Ready with that role. The agent has seen to it that nothing runs."""

    role: Role


class Meet(msgspec.Struct, tag="meet", kw_only=True, frozen=True):
    """There is a context server to fetch KV from: connect, and move a test block; answered by `Linked`."""

    peer: PeerAddress


class Gone(msgspec.Struct, tag="gone", kw_only=True, frozen=True):
    """An incarnation of a server has ended: nothing of it comes any more, and what it had claimed is free."""

    incarnation: str


Command = SwitchRole | Meet | Gone

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Command] = msgspec.json.Decoder(Command)


def encode_command(command: Command) -> bytes:
    """Encode a command as its line; short enough to be written to a pipe whole or not at all."""
    line = _encoder.encode(command) + b"\n"
    assert len(line) <= MAX_LINE_BYTES
    return line


class Commands:
    """The child's end of the pipe.

    :param fd: the inherited descriptor, which is taken over; None (started by hand): nobody commands.
    """

    def __init__(self, fd: int | None) -> None:
        self.fd = fd
        """To be watched until `is_over`."""
        self.is_over = fd is None
        """Nothing more comes; the pipe is still to be closed, once nobody watches it."""
        self._unread = b""
        if fd is not None:
            os.set_blocking(fd, False)
            os.set_inheritable(fd, False)  # noqa: FBT003 (positional only)

    def receive(self) -> list[Command]:
        """The commands that have come since; one that nobody can understand is said in the log and left out."""
        self._fill()
        *lines, self._unread = self._unread.split(b"\n")
        if len(self._unread) > MAX_LINE_BYTES:
            log.error("a command without an end, %d bytes so far: left out", len(self._unread))
            self._unread = b""
        return [command for line in lines if (command := _decode(line)) is not None]

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)
            self.fd, self.is_over = None, True

    def _fill(self) -> None:
        while not self.is_over and self.fd is not None:
            try:
                data = os.read(self.fd, MAX_LINE_BYTES)
            except BlockingIOError:
                return
            self.is_over = not data
            self._unread += data


def _decode(line: bytes) -> Command | None:
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError as e:
        log.error("the command %r is not understood, and left out: %s", line[:200], e)
        return None
