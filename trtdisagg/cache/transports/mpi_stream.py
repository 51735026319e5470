"""The stream beside MPI between two ranks: wishes go by it, and its end says that the peer is gone.

MPI itself could only be asked again and again, and says nothing of a peer that died.

    the rank that fetches                         the rank that holds
       | <------------------------------- nonce      |   32 bytes
       | Greeting(proof, process) -----------------> |
       | <------------------- Meeting(port, tag)     |   then both meet in MPI, unless they are in one world
       | Read(runs) -------------------------------> |   several may be underway
       | <= the runs, packed, as an MPI message =    |   in the order of the wishes
       | <------------------------ Unable(error)     |   and the end

Frames are those of `protocol.frames`, with msgpack in them.
"""

from __future__ import annotations

import contextlib
import select
import socket
from typing import TypeVar

import msgspec

from trtdisagg.errors import HandoverError
from trtdisagg.protocol.frames import LENGTH_BYTES, UNREADABLE, frame, read_length

FRAME_TIMEOUT_S = 10.0
"""What has begun must be there then."""
_MAX_FRAME_BYTES = 1 << 20


class Greeting(msgspec.Struct, tag="greeting", frozen=True):
    proof: bytes
    """As `cache.greeting.prove` has it: knows the key that came with the holder's memory."""
    process: str


class Meeting(msgspec.Struct, tag="meeting", frozen=True):
    process: str
    """The holder's."""
    port: str | None
    """Of MPI; None: we are of one world already."""
    tag: int
    """Of all messages."""


class Read(msgspec.Struct, tag="read", frozen=True):
    runs: bytes
    """As in `cache.movers.pieces.as_asked`."""


class Unable(msgspec.Struct, tag="unable", frozen=True):
    error: str


Message = TypeVar("Message", bound=msgspec.Struct)


class Stream:
    """One end. A thread uses it at a time; `end` may come from any."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(FRAME_TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a host that vanished says nothing
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def send(self, message: msgspec.Struct) -> None:
        """
        :raises HandoverError: when the peer is gone, or takes nothing.
        """
        self.send_raw(frame(msgspec.msgpack.encode(message)))

    def send_raw(self, data: bytes) -> None:
        try:
            self._sock.sendall(data)
        except OSError as e:
            raise HandoverError(f"mpi: the peer is gone: {e}") from e

    def receive(self, kind: type[Message]) -> Message:
        """
        :raises HandoverError: when the peer is gone, says that it cannot, or sends something else.
        """
        try:
            length = read_length(self.receive_raw(LENGTH_BYTES), _MAX_FRAME_BYTES)
            message: Message | Unable = msgspec.msgpack.decode(self.receive_raw(length), type=kind | Unable)
        except UNREADABLE as e:
            raise HandoverError(f"mpi: the peer sent what is no {kind.__name__}: {e}") from e
        if isinstance(message, Unable):
            raise HandoverError(f"mpi: the peer cannot: {message.error}")
        return message

    def receive_raw(self, num_bytes: int) -> bytes:
        data = bytearray()
        while len(data) < num_bytes:
            try:
                part = self._sock.recv(num_bytes - len(data))
            except OSError as e:
                raise HandoverError(f"mpi: the peer is gone: {e}") from e
            if not part:
                raise HandoverError("mpi: the peer is gone")
            data += part
        return bytes(data)

    def wait(self, timeout_s: float | None) -> bool:
        """Whether there is something to receive, its end included."""
        return bool(self._poll.poll(None if timeout_s is None else timeout_s * 1000))

    def has_ended(self) -> bool:
        """Whether the peer is gone, where there is something to receive."""
        try:
            return not self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return True

    def end(self) -> None:
        """Tell both ends that it is over."""
        with contextlib.suppress(OSError):  # it was
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.end()
        self._sock.close()
