"""The first words between the head and a node agent: each proves to the other that it knows the run's secret.

head                                 node agent
  | Challenge(nonce) -----------------> |
  | <----- Hello(node, nonce, proof)    |      over both nonces
  | Welcome(proof) | Refused(reason) -> |      likewise
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable

import msgspec
from msgspec.structs import replace

from trtdisagg.errors import StartupError
from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.nodes import Challenge, Hello, Opening, Refused, Welcome, prove
from trtdisagg.supervisor.nodes.stream import Stream, StreamError

GREETING_TIMEOUT_S = 5.0
"""Of each message."""

_decoder: msgspec.msgpack.Decoder[Opening] = msgspec.msgpack.Decoder(Opening)


class RefusedError(StartupError):
    """The other end does not want to have to do with this one; the message is the reason."""


async def admit(stream: Stream, secret: bytes, check: Callable[[Hello], Welcome]) -> Hello:
    """The head's part: challenge who comes, and let it in or refuse it.

    :param check: what to say to one that knows the secret; raises RefusedError where it is not wanted.
    :raises RefusedError: when it was refused.
    :raises StreamError: when it said nothing that is of our protocol.
    """
    nonce = secrets.token_bytes(32)
    await stream.send(Challenge(nonce=nonce), timeout_s=GREETING_TIMEOUT_S)
    hello = await stream.receive(_decoder, timeout_s=GREETING_TIMEOUT_S)
    if not isinstance(hello, Hello):
        raise StreamError(f"{type(hello).__name__} came instead of Hello")
    try:
        if not hmac.compare_digest(hello.proof, prove("node", secret, nonce, hello.nonce, hello.node.encode())):
            # What a stranger says is not for the terminal as it is.
            raise RefusedError(f"{ascii(hello.node[:64])[1:-1]} does not know the secret of this run")
        if hello.wire_version != WIRE_VERSION:
            raise RefusedError(
                f"{hello.node} speaks wire version {hello.wire_version}, the head {WIRE_VERSION}: "
                "they are of two releases"
            )
        welcome = check(hello)
    except RefusedError as e:
        await stream.send(Refused(reason=e.message), timeout_s=GREETING_TIMEOUT_S)
        raise
    proof = prove("head", secret, hello.nonce, nonce)
    await stream.send(replace(welcome, proof=proof), timeout_s=GREETING_TIMEOUT_S)
    return hello


async def introduce(stream: Stream, secret: bytes, hello: Callable[[], Hello]) -> Welcome:
    """A node agent's part.

    :param hello: who it is; nonce and proof are filled in here.
    :raises RefusedError: when it is refused, or the head does not know the secret.
    :raises StreamError: when the other end is no head.
    """
    challenge = await stream.receive(_decoder, timeout_s=GREETING_TIMEOUT_S)
    if not isinstance(challenge, Challenge):
        raise StreamError(f"{type(challenge).__name__} came instead of Challenge")
    mine, nonce = hello(), secrets.token_bytes(32)
    proof = prove("node", secret, challenge.nonce, nonce, mine.node.encode())
    await stream.send(replace(mine, nonce=nonce, proof=proof), timeout_s=GREETING_TIMEOUT_S)
    answer = await stream.receive(_decoder, timeout_s=GREETING_TIMEOUT_S)
    if isinstance(answer, Refused):
        raise RefusedError(answer.reason)
    if not isinstance(answer, Welcome):
        raise StreamError(f"{type(answer).__name__} came instead of Welcome")
    if not hmac.compare_digest(answer.proof, prove("head", secret, nonce, challenge.nonce)):
        raise RefusedError("the head does not know the secret of this run")
    return answer
