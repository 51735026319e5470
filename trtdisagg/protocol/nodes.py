"""What the head and a node agent say to each other, in msgpack, framed by `frames`.

    head                                            node agent
      | Challenge(nonce) ----------------------------> |
      | <--------------- Hello(node, ..., nonce, proof) |
      | Welcome(proof, ...) | Refused(reason) -------> |
      | <--- Envelope(number, received, message) ----> |      from here on

Both ends number their messages, say how many of the other's they have received, and repeat on the next connection what
had not arrived on the last. An envelope without a message says that its sender lives.
"""

from __future__ import annotations

import hmac
from typing import Literal

import msgspec

from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.commands import Command
from trtdisagg.protocol.reports import Report
from trtdisagg.protocol.spec import EngineSpec

MAX_MESSAGE_BYTES = 4 * 1024 * 1024


# --- the first words ------------------------------------------------------------------------------------------------


class Challenge(msgspec.Struct, tag="challenge", kw_only=True, frozen=True):
    nonce: bytes


class Hello(msgspec.Struct, tag="hello", kw_only=True, frozen=True):
    """A node agent has come, or is back."""

    wire_version: int = WIRE_VERSION
    node: str
    """Its name."""
    address: str
    """Where its servers are reached."""
    host: msgspec.Raw
    """What it has: a `Host` of the supervisor's."""
    digest: str
    """Of the assignment of servers to nodes, as this node has computed it."""
    file: str
    """The cluster file it has computed that from."""
    session: str
    """The same on each connection of one node agent, and no other's."""
    is_new: bool
    """It has not been let in yet, so nothing runs there."""
    received: int
    """Messages of the head that it has had."""
    pid: int
    nonce: bytes
    proof: bytes


class Welcome(msgspec.Struct, tag="welcome", kw_only=True, frozen=True):
    received: int
    """Messages of the node agent that the head has had."""
    timeout_s: float
    """Without the other for so long, the head takes the node for lost, and the node agent ends."""
    proof: bytes


class Refused(msgspec.Struct, tag="refused", kw_only=True, frozen=True):
    reason: str


Opening = Challenge | Hello | Welcome | Refused


def prove(end: Literal["head", "node"], secret: bytes, *nonces: bytes) -> bytes:
    """That an end knows the run's secret; a proof of one end is none of the other."""
    return hmac.digest(secret, end.encode() + b"".join(nonces), "sha256")


# --- head to node ---------------------------------------------------------------------------------------------------


class Start(msgspec.Struct, tag="start", kw_only=True, frozen=True):
    """Start a rank, once what was there before has let go of its GPU and port."""

    process: str
    """Names it in all that follows: no other process of this run ever has the same."""
    spec: EngineSpec
    """Without what only the node knows: parent, pipes, secret."""
    argv: list[str]
    env: dict[str, str] = {}
    gpu: str | None = None
    needed_bytes: int = 0
    """What it takes of that GPU."""
    binds_gang: bool = False
    """It is rank 0 of a server on several nodes: it inherits a socket that listens on `spec.host`."""


class CalmDown(msgspec.Struct, tag="calm_down", kw_only=True, frozen=True):
    """Its reports are not urgent any more."""

    process: str


class Signal(msgspec.Struct, tag="signal", kw_only=True, frozen=True):
    process: str
    number: int


class Commanded(msgspec.Struct, tag="commanded", kw_only=True, frozen=True):
    """Pass a command on to a process."""

    process: str
    command: Command


class Bye(msgspec.Struct, tag="bye", kw_only=True, frozen=True):
    """The head goes down, or needs this node no more: kill what is left, and end."""

    exit_code: int
    reason: str


ToNode = Start | CalmDown | Signal | Commanded | Bye


# --- node to head ---------------------------------------------------------------------------------------------------


class Started(msgspec.Struct, tag="started", kw_only=True, frozen=True):
    process: str
    pid: int
    gang_address: str | None = None
    """host:port of the socket it has inherited."""


class StartFailed(msgspec.Struct, tag="start_failed", kw_only=True, frozen=True):
    process: str
    message: str


class Line(msgspec.Struct, tag="line", kw_only=True, frozen=True):
    """What a process has printed."""

    process: str
    line: bytes


class Reported(msgspec.Struct, tag="reported", kw_only=True, frozen=True):
    process: str
    report: Report


class Ended(msgspec.Struct, tag="ended", kw_only=True, frozen=True):
    """A process has ended; what it has started may not have."""

    process: str
    returncode: int
    """As of subprocess."""


class Cleared(msgspec.Struct, tag="cleared", kw_only=True, frozen=True):
    """Nothing of it is left."""

    process: str
    returncode: int


class Leaving(msgspec.Struct, tag="leaving", kw_only=True, frozen=True):
    """The node is about to go: its servers are to be drained."""

    reason: str


class Left(msgspec.Struct, tag="left", kw_only=True, frozen=True):
    """The node agent ends now, and nothing of ours runs there any more."""

    reason: str


class Noticed(msgspec.Struct, tag="noticed", kw_only=True, frozen=True):
    """Something people should know."""

    text: str


ToHead = Started | StartFailed | Line | Reported | Ended | Cleared | Leaving | Left | Noticed


class Envelope(msgspec.Struct, array_like=True, frozen=True):
    number: int
    """From 1 on, without a gap; 0: there is no message."""
    received: int
    """Of the other end's messages."""
    message: msgspec.Raw = msgspec.Raw(b"\xc0")
    """A `ToNode`, or a `ToHead`."""
