"""The first words on a connection for KV: whoever comes proves that it knows the cluster's secret, and is let in or
told why not. Between servers (`Hello`, `Welcome`) and between ranks of two servers (`RankHello`, `RankWelcome`) alike.

    who listens                                 who comes
       | Challenge(nonce) ------------------------> |
       | <----------------------- ...Hello(..., proof) |
       | ...Welcome | Refused(reason) ------------> |
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from trtdisagg.cache.layout import check_compatible, check_layout
from trtdisagg.cache.streams import Incoming, PeerLostError, PeerStream
from trtdisagg.errors import HandoverError
from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.helping import RankHello
from trtdisagg.protocol.peers import Challenge, FromContext, FromGeneration, Hello, PeerRanks, Refused, Welcome

CONNECT_TIMEOUT_S = 5.0
GREETING_TIMEOUT_S = 10.0
"""Of each message."""

Result = TypeVar("Result")
AnyHello = TypeVar("AnyHello", Hello, RankHello)
AnyWelcome = TypeVar("AnyWelcome")


class RefusedError(HandoverError):
    """A peer was not let in."""


async def connect(
    who: str,
    host: str,
    port: int,
    decoder: msgspec.msgpack.Decoder[Incoming],
    greeting: Callable[[PeerStream[Incoming]], Awaitable[Result]],
) -> Result:
    """Connect and greet; the connection ends when that fails.

    :param who: is meant to listen there, for people.
    :return: what `greeting` does, whose the connection is then.
    :raises HandoverError: when there is nobody, or as `greeting` does; says where.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError) as e:
        raise HandoverError(f"{who} cannot be reached at {host}:{port}: {e or 'no answer'}") from e
    stream = PeerStream(reader, writer, decoder)
    try:
        return await greeting(stream)
    except HandoverError as e:
        stream.abort()
        raise HandoverError(f"{who} at {host}:{port}: {e.message}") from e
    except BaseException:
        stream.abort()
        raise


async def greet(stream: PeerStream[FromGeneration], welcome: Welcome, secret: bytes) -> Hello:
    """A context server's greeting.

    :raises RefusedError: when the peer was refused; the reason is as that side sees it.
    :raises PeerLostError: when it said nothing that is of our protocol.
    """

    def check(hello: Hello) -> None:
        check_ranks(hello.me)
        check_compatible(hello.me.layout, welcome.me.layout)  # so that the reason's `here` is where it is read

    hello = await admit(stream, Hello, secret, check)
    stream.send(welcome)
    return hello


async def introduce(stream: PeerStream[FromContext], hello: Hello, secret: bytes) -> Welcome:
    """A generation server's greeting.

    :param hello: who we are; the proof is filled in here.
    :raises HandoverError: when we are refused, with the reason, or cannot read that server's KV.
    """
    welcome = await present(stream, hello, Welcome, secret)
    check_ranks(welcome.me)
    check_compatible(hello.me.layout, welcome.me.layout)
    return welcome


async def admit(
    stream: PeerStream[Any], kind: type[AnyHello], secret: bytes, check: Callable[[AnyHello], None] | None = None
) -> AnyHello:
    """Challenge who comes, and let it in, which is the caller's to say, or refuse it.

    :param check: what else there is to refuse: raises a HandoverError.
    :raises RefusedError: when it was refused.
    :raises PeerLostError: when it said nothing that is of our protocol.
    """
    nonce = secrets.token_bytes(32)
    stream.send(Challenge(nonce=nonce))
    hello = await stream.receive(GREETING_TIMEOUT_S)
    try:
        if not isinstance(hello, kind):
            raise PeerLostError(f"the peer sent {type(hello).__name__} before {kind.__name__}")
        if not hmac.compare_digest(hello.proof, prove(nonce, secret)):
            raise HandoverError("the secret is not this cluster's")
        if hello.wire_version != WIRE_VERSION:
            raise HandoverError(f"wire version {hello.wire_version} meets {WIRE_VERSION}")
        if check is not None:
            check(hello)
    except HandoverError as e:
        stream.send(Refused(reason=e.message))
        name = hello.name if isinstance(hello, kind) else "a peer"
        raise RefusedError(f"{name} was refused: {e.message}") from e
    return hello


async def present(stream: PeerStream[Any], hello: AnyHello, kind: type[AnyWelcome], secret: bytes) -> AnyWelcome:
    """Say who we are.

    :param hello: the proof is filled in here.
    :param kind: of the welcome that is due.
    :raises HandoverError: when we are refused, with the reason.
    """
    challenge = await stream.receive(GREETING_TIMEOUT_S)
    if not isinstance(challenge, Challenge):
        raise PeerLostError(f"the peer sent {type(challenge).__name__} before a challenge")
    stream.send(msgspec.structs.replace(hello, proof=prove(challenge.nonce, secret)))
    answer = await stream.receive(GREETING_TIMEOUT_S)
    if isinstance(answer, Refused):
        raise HandoverError(f"refused: {answer.reason}")
    if not isinstance(answer, kind):
        raise PeerLostError(f"the peer sent {type(answer).__name__} in place of a welcome")
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
