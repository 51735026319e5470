"""The first words on a connection between a rank and rank 0: both prove that they know the cluster's secret, and that
they were started for the same server, in the same way."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import Any, NamedTuple

import msgspec

from trtdisagg.engine.gang.frames import Frames, StreamEndedError, encode
from trtdisagg.engine.gang.messages import Admitted, Challenge, Channel, FromFollower, FromLeader, Join, Refused
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.spec import EngineSpec

_OF_ONE_RANK = {"rank", "device", "cores", "num_threads", "parent_pid", "report_fd", "command_fd"}
_OF_ONE_HOST = {"host", "port", "gang_fd", "secret_file"}
"""What differs, too, where the ranks are on several hosts. That the secret is the same is proven."""


class Seat(NamedTuple):
    """One of the two connections of a rank."""

    rank: int
    channel: Channel


class NotAdmittedError(Exception):
    """Who has come is none of us; why."""


def common(spec: EngineSpec) -> dict[str, Any]:
    """What must be the same in the specs of all ranks of a server."""
    fields: dict[str, Any] = msgspec.to_builtins(spec)
    own = _OF_ONE_RANK | _OF_ONE_HOST if spec.gang_address else _OF_ONE_RANK
    return {name: value for name, value in fields.items() if name not in own}


class Asked(NamedTuple):
    """Somebody wants to be let in."""

    join: Join
    nonce: bytes
    """What it was challenged with."""


def hear(stream: Frames[FromFollower]) -> Asked:
    """Challenge who comes.

    :raises StreamEndedError: when it does not speak our protocol.
    """
    nonce = secrets.token_bytes(32)
    stream.send(encode(Challenge(nonce=nonce)))
    join = stream.receive()
    if not isinstance(join, Join):
        raise StreamEndedError(f"{type(join).__name__} came before Join")
    return Asked(join, nonce)


def admit(stream: Frames[FromFollower], asked: Asked, spec: EngineSpec, secret: bytes, taken: set[Seat]) -> Seat:
    """Rank 0's side.

    :param taken: by those that are here already.
    :raises NotAdmittedError: when it was refused, with the reason it was told.
    :raises StreamEndedError: when it is gone.
    """
    join, nonce = asked
    if reason := _why_not(join, nonce, spec, secret, taken):
        stream.send(encode(Refused(reason=reason)))
        raise NotAdmittedError(reason)
    stream.send(encode(Admitted(proof=_proof(join.nonce, secret, b"rank 0"))))
    return Seat(join.rank, join.channel)


def introduce(stream: Frames[FromLeader], spec: EngineSpec, secret: bytes, channel: Channel) -> None:
    """The other ranks' side.

    :raises ConfigError: when we are refused, with the reason.
    :raises StartupError: when who listens there is not rank 0 of our server.
    :raises StreamEndedError: when it does not speak our protocol.
    """
    challenge = stream.receive()
    if not isinstance(challenge, Challenge):
        raise StreamEndedError(f"{type(challenge).__name__} came before a challenge")
    nonce = secrets.token_bytes(32)
    seat = Seat(spec.rank, channel)
    proof = _proof(challenge.nonce, secret, _words(seat))
    stream.send(encode(Join(rank=spec.rank, channel=channel, spec=common(spec), nonce=nonce, proof=proof)))
    answer = stream.receive()
    if isinstance(answer, Refused):
        raise ConfigError(f"rank 0 of {spec.name} refuses rank {spec.rank}: {answer.reason}")
    if not isinstance(answer, Admitted):
        raise StreamEndedError(f"{type(answer).__name__} came in place of an answer")
    if not hmac.compare_digest(answer.proof, _proof(nonce, secret, b"rank 0")):
        raise StartupError(f"who listens on {spec.meeting_place} does not know the secret of {spec.name}")


def _why_not(join: Join, nonce: bytes, spec: EngineSpec, secret: bytes, taken: set[Seat]) -> str | None:
    seat = Seat(join.rank, join.channel)
    if not hmac.compare_digest(join.proof, _proof(nonce, secret, _words(seat))):
        return "its secret is not this server's"
    if join.wire_version != WIRE_VERSION:
        return f"its wire version is {join.wire_version}, rank 0 has {WIRE_VERSION}"
    if not 0 < join.rank < spec.parallel.num_ranks:
        return f"this server has the ranks 0 to {spec.parallel.num_ranks - 1}"
    if seat in taken:
        return "another process is this rank already"
    mine = common(spec)
    different = sorted(name for name in {*mine, *join.spec} if mine.get(name) != join.spec.get(name))
    return f"its spec differs from that of rank 0 in {', '.join(different)}" if different else None


def _words(seat: Seat) -> bytes:
    return f"rank {seat.rank} {seat.channel}".encode()


def _proof(nonce: bytes, secret: bytes, who: bytes) -> bytes:
    # `person` keeps this apart from whatever else is signed with the secret, `who` apart from the other side's proof.
    key = hashlib.blake2b(secret).digest()
    return hashlib.blake2b(nonce + who, key=key, digest_size=32, person=b"trtdisagg-gang").digest()
