"""The stream between two servers: frames of bounded size, and a greeting that proves who may read KV.

    4 bytes, big endian: length of the body | body: one message of protocol/peers.py as msgpack

Both asyncio and uvloop set TCP_NODELAY by themselves, so a message leaves when it is sent.

It knows messages and sockets; what they mean for blocks is `transceiver` and `peers`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import struct
from contextlib import suppress
from typing import Generic, TypeVar

import msgspec

from trtdisagg.cache.layout import check_compatible, check_layout
from trtdisagg.errors import HandoverError
from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.peers import Challenge, FromContext, FromGeneration, Hello, PeerRanks, Refused, Welcome

MAX_FRAME_BYTES = 1 << 20
GREETING_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 1.0
KEEPALIVE_S = 3.0
"""How often the generation side gives a sign of life."""
SILENT_BEATS = 4
"""A side that hears nothing for so many of them takes the other for gone."""

_LENGTH = struct.Struct(">I")
Incoming = TypeVar("Incoming")


class PeerLostError(HandoverError):
    """The stream has ended, or the other side is silent, or does not speak our protocol."""

    has_ended = False
    """The other side, or the kernel after its death, has closed the connection."""


class RefusedError(HandoverError):
    """A peer was not let in."""


class PeerStream(Generic[Incoming]):
    """Messages over one connection.

    :param decoder: reads what the other side sends.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        decoder: msgspec.msgpack.Decoder[Incoming],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._decoder = decoder

    async def receive(self, timeout_s: float | None) -> Incoming:
        """Wait for the next message.

        :param timeout_s: None: the other side may be silent for as long as it likes.

        :raises PeerLostError: when none comes in time or ever, or it cannot be read.
        """
        try:
            async with asyncio.timeout(timeout_s):
                (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
                if length > MAX_FRAME_BYTES:
                    raise PeerLostError(f"the peer sent a frame of {length} bytes")
                return self._decoder.decode(await self._reader.readexactly(length))
        except TimeoutError:
            raise PeerLostError(f"the peer was silent for {timeout_s:g} s") from None
        except (OSError, asyncio.IncompleteReadError) as e:
            lost = PeerLostError("the connection to the peer was lost")
            lost.has_ended = isinstance(e, (asyncio.IncompleteReadError, ConnectionResetError))
            raise lost from e
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            raise PeerLostError(f"the peer sent what is not of our protocol: {e}") from e

    def send(self, message: msgspec.Struct) -> None:
        """Send without waiting: messages are few and small, and a peer that takes none is silent soon.

        That the connection is lost is for `receive` to say.
        """
        body = msgspec.msgpack.encode(message)
        assert len(body) <= MAX_FRAME_BYTES
        if not self._writer.is_closing():  # uvloop raises where asyncio says nothing
            self._writer.write(_LENGTH.pack(len(body)) + body)

    def abort(self) -> None:
        """End the connection now; whoever receives gets a PeerLostError."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Send what is left, for a short while, and end the connection."""
        self._writer.close()
        try:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await self._writer.wait_closed()
        finally:
            self._writer.transport.abort()


async def greet(stream: PeerStream[FromGeneration], welcome: Welcome, secret: bytes) -> Hello:
    """The context side's greeting: challenge, and let in or refuse.

    :raises RefusedError: when the peer was refused; the reason is as that side sees it.
    :raises PeerLostError: when it said nothing that is of our protocol.
    """
    nonce = secrets.token_bytes(32)
    stream.send(Challenge(nonce=nonce))
    hello = await stream.receive(GREETING_TIMEOUT_S)
    try:
        if not isinstance(hello, Hello):
            raise PeerLostError(f"the peer sent {type(hello).__name__} before Hello")
        if not hmac.compare_digest(hello.proof, prove(nonce, secret)):
            raise HandoverError("the secret is not this cluster's")
        if hello.wire_version != WIRE_VERSION:
            raise HandoverError(f"wire version {hello.wire_version} meets {WIRE_VERSION}")
        check_ranks(hello.me)
        check_compatible(hello.me.layout, welcome.me.layout)  # so that the reason's `here` is where it is read
    except HandoverError as e:
        stream.send(Refused(reason=e.message))
        name = hello.me.server if isinstance(hello, Hello) else "a peer"
        raise RefusedError(f"{name} was refused: {e.message}") from e
    stream.send(welcome)
    return hello


async def introduce(stream: PeerStream[FromContext], hello: Hello, secret: bytes) -> Welcome:
    """The generation side's greeting.

    :param hello: who we are; the proof is filled in here.
    :raises HandoverError: when we are refused, with the reason.
    """
    challenge = await stream.receive(GREETING_TIMEOUT_S)
    if not isinstance(challenge, Challenge):
        raise PeerLostError(f"the peer sent {type(challenge).__name__} before a challenge")
    stream.send(msgspec.structs.replace(hello, proof=prove(challenge.nonce, secret)))
    answer = await stream.receive(GREETING_TIMEOUT_S)
    if isinstance(answer, Refused):
        raise HandoverError(f"refused: {answer.reason}")
    if not isinstance(answer, Welcome):
        raise PeerLostError(f"the peer sent {type(answer).__name__} in place of a welcome")
    check_ranks(answer.me)
    check_compatible(hello.me.layout, answer.me.layout)
    return answer


def check_ranks(peer: PeerRanks) -> None:
    """
    :raises HandoverError: when there cannot be such a server.
    """
    check_layout(peer.layout)
    if len(peer.ranks) != (num_ranks := peer.layout.parallel.num_ranks):
        raise HandoverError(f"it has {num_ranks} ranks and tells where {len(peer.ranks)} are")


def prove(nonce: bytes, secret: bytes) -> bytes:
    """The answer to a challenge: a digest keyed with the cluster's secret."""
    # The person keeps this apart from the digest of a ticket, which has the same key: a nonce that is the body of a
    # ticket must not make us sign the ticket.
    return hashlib.blake2b(
        nonce, key=hashlib.blake2b(secret).digest(), digest_size=32, person=b"trtdisagg-peer"
    ).digest()
