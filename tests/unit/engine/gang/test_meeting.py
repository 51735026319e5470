from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from helpers.gangs import TIMEOUT_S, gang_spec, on_each_rank
from helpers.ports import free_port

from trtdisagg.engine.gang.frames import Frames, encode
from trtdisagg.engine.gang.greeting import Seat
from trtdisagg.engine.gang.meeting import MAX_FROM_FOLLOWER_BYTES, Gathering, Members, join
from trtdisagg.engine.gang.messages import Admitted, Challenge, Compute, FromLeader, Loaded
from trtdisagg.engine.gang.sockets import check_meeting
from trtdisagg.engine.step import Chunk, Copy, Step
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.net import split_address
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.spec import EngineSpec

TWO = Parallel(tp_size=2)
SECRET = b"secret"


class Gatherer:
    """Rank 0 in a thread."""

    def __init__(self, spec: EngineSpec, secret: bytes, timeout_s: float) -> None:
        self.members: Members = {}
        self.error: str | None = None
        self.gathering = Gathering(spec, secret, timeout_s)
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.members = self.gathering.gather()
        except StartupError as e:
            self.error = e.message

    def result(self) -> Members:
        self.thread.join(TIMEOUT_S)
        assert not self.thread.is_alive()
        return self.members


@contextmanager
def gathering(spec: EngineSpec, timeout_s: float = TIMEOUT_S) -> Iterator[Gatherer]:
    gatherer = Gatherer(spec, SECRET, timeout_s)
    gatherer.thread.start()
    try:
        yield gatherer
    finally:
        gatherer.gathering.close()
        for stream in gatherer.result().values():
            stream.close()


@contextmanager
def at_an_address(short_path: Path, parallel: Parallel = TWO, **changes: Any) -> Iterator[list[EngineSpec]]:
    """Specs of ranks that meet by TCP, whose rank 0 has inherited a socket."""
    listener = socket.create_server(("127.0.0.1", port := free_port()))
    common = {"gang_socket": None, "gang_address": f"127.0.0.1:{port}", **changes}
    yield [
        gang_spec(short_path, parallel, rank, **common, gang_fd=None if rank else listener.detach())
        for rank in range(parallel.num_ranks)
    ]


def join_and_close(spec: EngineSpec, secret: bytes = SECRET) -> None:
    for stream in join(spec, secret, timeout_s=TIMEOUT_S):
        stream.close()


def test_all_ranks_come_in_any_order(short_path: Path) -> None:
    four = Parallel(tp_size=2, pp_partition=[1, 1])

    def meet(rank: int) -> Any:
        spec = gang_spec(short_path, four, rank)
        return join(spec, SECRET, TIMEOUT_S) if rank else Gathering(spec, SECRET, TIMEOUT_S).gather()

    members, *places = on_each_rank(4, meet)
    assert set(members) == {Seat(rank, channel) for rank in (1, 2, 3) for channel in ("steps", "kv")}
    step = Step([Chunk([1, 2], 0, [0], 1, dp_rank=1)], [Copy(1, 2)])
    for rank, place in enumerate(places, start=1):
        members[Seat(rank, "steps")].send(encode(Compute(step)))
        assert place.steps.receive() == Compute(step)
        place.steps.send(encode(Loaded()))
        assert members[Seat(rank, "steps")].receive() == Loaded()
        place.kv.close()
        assert members[Seat(rank, "kv")].sock.recv(1) == b""
    for stream in [*members.values(), *(s for place in places for s in place)]:
        stream.close()
    assert list(short_path.iterdir()) == []  # nobody else is to come


def test_only_the_owner_may_come_to_the_socket(short_path: Path) -> None:
    with gathering(gang_spec(short_path, TWO)) as gatherer:
        with pytest.raises(ConfigError):  # once it is told so, the socket is open
            join_and_close(gang_spec(short_path, TWO, rank=2))
        assert stat.S_IMODE(os.stat(short_path / "gang").st_mode) == 0o600
    assert "rank 1 did not come" in str(gatherer.error)


def test_a_socket_that_was_left_behind_is_replaced(short_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as old:
        old.bind(str(short_path / "gang"))
    with gathering(gang_spec(short_path, TWO)) as gatherer:
        join_and_close(gang_spec(short_path, TWO, rank=1))
        assert len(gatherer.result()) == 2


@pytest.mark.parametrize(
    ("changes", "secret", "reason"),
    [
        ({}, b"other", "its secret is not this server's"),
        ({"rank": 2}, SECRET, "this server has the ranks 0 to 1"),
        ({"max_num_tokens": 7, "name": "context-1"}, SECRET, "differs from that of rank 0 in max_num_tokens, name"),
    ],
)
def test_who_is_no_rank_of_the_server_is_told_why(
    short_path: Path, changes: dict[str, Any], secret: bytes, reason: str
) -> None:
    spec = msgspec.structs.replace(gang_spec(short_path, TWO, rank=1), **changes)
    with gathering(gang_spec(short_path, TWO)) as gatherer, pytest.raises(ConfigError, match=reason):
        join_and_close(spec, secret)
    assert reason in str(gatherer.error)
    assert "rank 1 did not come" in str(gatherer.error)


def test_what_only_one_rank_has_may_differ(short_path: Path) -> None:
    with gathering(gang_spec(short_path, TWO)):
        join_and_close(gang_spec(short_path, TWO, rank=1, cores=[1], num_threads=3, parent_pid=1, report_fd=9))


def test_no_rank_comes_twice(short_path: Path) -> None:
    three = Parallel(tp_size=3)
    with gathering(gang_spec(short_path, three)):
        join_and_close(gang_spec(short_path, three, rank=2))
        with pytest.raises(ConfigError, match="another process is this rank already"):
            join_and_close(gang_spec(short_path, three, rank=2))


def test_another_wire_version_is_refused(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gathering(gang_spec(short_path, TWO)):
        monkeypatch.setattr("trtdisagg.engine.gang.greeting.WIRE_VERSION", -1)
        with pytest.raises(ConfigError, match="wire version"):
            join_and_close(gang_spec(short_path, TWO, rank=1))


def test_a_rank_that_is_missing_at_the_deadline_is_named(short_path: Path) -> None:
    three = Parallel(tp_size=3)
    gatherer = Gatherer(gang_spec(short_path, three), SECRET, timeout_s=3)
    gatherer.thread.start()
    place = join(gang_spec(short_path, three, rank=1), SECRET, TIMEOUT_S)
    assert gatherer.result() == {}
    assert gatherer.error == "context-0: rank 2 did not come within 3 s"
    assert place.steps.sock.recv(1) == b""  # and the others are let go
    for stream in place:
        stream.close()
    assert list(short_path.iterdir()) == []


def test_without_rank_0_a_rank_gives_up(short_path: Path) -> None:
    with pytest.raises(StartupError, match="rank 0 of context-0 does not listen on"):
        join(gang_spec(short_path, TWO, rank=1), SECRET, timeout_s=0)


def test_who_only_pretends_to_be_rank_0_is_not_followed(short_path: Path) -> None:
    """Somebody else has opened the socket, and lets everybody in."""

    def pretend(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock:
            stream: Frames[Any] = Frames(sock, FromLeader)
            stream.send(encode(Challenge(nonce=b"n" * 32)))
            sock.recv(1 << 16)
            sock.sendall(encode(Admitted(proof=b"p" * 32)))

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(short_path / "gang"))
        listener.listen()
        thread = threading.Thread(target=pretend, args=[listener])
        thread.start()
        with pytest.raises(StartupError, match="does not know the secret of context-0"):
            join_and_close(gang_spec(short_path, TWO, rank=1))
        thread.join()


@pytest.mark.parametrize("noise", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x03abc", b"GET / HTTP/1.1\r\n\r\n"])
def test_noise_does_not_keep_ranks_out(short_path: Path, noise: bytes) -> None:
    with gathering(gang_spec(short_path, TWO)) as gatherer:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stranger:
            while stranger.connect_ex(str(short_path / "gang")):
                assert gatherer.thread.is_alive()
            stranger.sendall(noise)
        join_and_close(gang_spec(short_path, TWO, rank=1))
        assert len(gatherer.result()) == 2


def test_a_path_too_long_for_a_socket_is_said(short_path: Path) -> None:
    path = str(short_path / ("x" * 120))
    with pytest.raises(StartupError, match=r"cannot open the socket .*AF_UNIX path too long"):
        Gathering(gang_spec(short_path, TWO, gang_socket=path), SECRET).gather()
    with pytest.raises(StartupError, match=r"cannot be reached at .*AF_UNIX path too long"):
        join(gang_spec(short_path, TWO, rank=1, gang_socket=path), SECRET, timeout_s=0)


def test_ranks_of_several_hosts_meet_at_an_address(short_path: Path) -> None:
    """Each with a host and a secret file of its own. A vanished host ends their connections, on `kv` at any time."""
    with at_an_address(short_path) as (spec, other), gathering(spec) as gatherer:
        place = join(msgspec.structs.replace(other, host="192.0.2.1", secret_file="/elsewhere"), SECRET, TIMEOUT_S)
        members = gatherer.result()
        assert set(members) == {Seat(1, "steps"), Seat(1, "kv")}
        ends = {"steps": [members[Seat(1, "steps")], place.steps], "kv": [members[Seat(1, "kv")], place.kv]}
        for channel, streams in ends.items():
            for stream in streams:
                assert stream.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                waits_ms = stream.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
                assert waits_ms == (8000 if channel == "kv" else 0)
        for stream in place:
            stream.close()


def test_a_stranger_who_says_nothing_keeps_nobody_out(short_path: Path) -> None:
    with at_an_address(short_path) as (spec, other), gathering(spec) as gatherer:
        address = split_address(str(spec.gang_address))
        with socket.create_connection(address), socket.create_connection(address):
            join_and_close(other)
            assert len(gatherer.result()) == 2


def test_a_stranger_is_not_listened_to_for_long(short_path: Path) -> None:
    """Who has no secret yet cannot make rank 0 keep what it says."""
    with at_an_address(short_path) as (spec, other), gathering(spec) as gatherer:
        with socket.create_connection(split_address(str(spec.gang_address))) as stranger:
            stranger.sendall((MAX_FROM_FOLLOWER_BYTES + 1).to_bytes(4))
            while stranger.recv(1 << 16):
                pass  # the challenge, and then the end
        join_and_close(other)
        assert len(gatherer.result()) == 2


def test_an_address_where_nobody_listens_is_said(short_path: Path) -> None:
    with at_an_address(short_path) as (spec, other):
        assert spec.gang_fd is not None
        os.close(spec.gang_fd)
        with pytest.raises(StartupError, match=r"does not listen on 127.0.0.1:\d+: Connection refused"):
            join(other, SECRET, timeout_s=0)
        with pytest.raises(StartupError, match="has not inherited the socket for its ranks"):
            Gathering(spec, SECRET).gather()


@pytest.mark.parametrize(
    ("changes", "has_secret", "words"),
    [
        ({"gang_socket": None}, True, "no place where they could meet"),
        ({"gang_address": "192.0.2.1:1"}, True, "more than one place"),
        ({"gang_socket": None, "gang_address": "192.0.2.1:1"}, False, "there is no secret: name a secret_file"),
        ({"gang_socket": None, "gang_address": "192.0.2.1:1", "host": "192.0.2.1"}, True, "inherited no gang_fd"),
        (
            {"gang_socket": None, "gang_address": "192.0.2.1:1", "rank": 1},
            True,
            "rank 1 of context-0 has the host 127.0.0.1, which only this machine can reach",
        ),
    ],
)
def test_a_meeting_that_cannot_be_is_refused(
    short_path: Path, changes: dict[str, Any], has_secret: bool, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        check_meeting(msgspec.structs.replace(gang_spec(short_path, TWO), **changes), has_secret=has_secret)
