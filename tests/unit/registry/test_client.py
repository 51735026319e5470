"""The agent's side against a socket that plays the proxy."""

from __future__ import annotations

import itertools
from pathlib import Path

import anyio
import anyio.abc
import msgspec
import pytest
from anyio import wait_all_tasks_blocked

from trtdisagg.protocol.control import Member, Members, Told
from trtdisagg.registry.client import MembersClient, put_members

pytestmark = pytest.mark.anyio

NOTHING_IN_USE = b"HTTP/1.1 200 OK\r\n\r\n{}"
MEMBER = Member(name="context-0", role="context", model="m", url="127.0.0.1:1")


class FakeDoor:
    """Takes members as the proxy does, or answers what it is told to."""

    def __init__(self, path: Path, answer: bytes = NOTHING_IN_USE) -> None:
        self.path = path
        self.answer = answer
        self.send, self.received = anyio.create_memory_object_stream[Members](100)

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with await anyio.create_unix_listener(self.path) as listener:
            task_status.started()
            await listener.serve(self._answer)

    async def _answer(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            data = b""
            while not (data and self._is_whole(data)):
                data += await stream.receive()
            head, _, body = data.partition(b"\r\n\r\n")
            assert head.startswith(b"PUT /members HTTP/1.1\r\n")
            self.send.send_nowait(msgspec.json.decode(body, type=Members))
            await stream.send(self.answer)

    @staticmethod
    def _is_whole(data: bytes) -> bool:
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length")]
        return bool(lengths) and len(body) == lengths[0]


async def test_a_change_is_told_at_once_and_renewed(short_path: Path) -> None:
    door = FakeDoor(short_path / "s")
    client = MembersClient(door.path)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks, door.send, door.received:
            await tasks.start(door.serve)
            tasks.start_soon(client.run)
            assert (await door.received.receive()).members == []
            before = anyio.current_time()
            client.update([MEMBER], {"m": ["context", "generation"]})
            told = await door.received.receive()
            assert anyio.current_time() - before < 0.5
            assert told.members == [MEMBER]
            assert told.needs == {"m": ["context", "generation"]}
            assert (await door.received.receive()).members == [MEMBER], "renewed without a change"
            tasks.cancel_scope.cancel()


async def test_a_proxy_that_comes_late_is_told(short_path: Path) -> None:
    door = FakeDoor(short_path / "s")
    client = MembersClient(door.path)
    client.update([MEMBER])
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks, door.send, door.received:
            tasks.start_soon(client.run)
            await wait_all_tasks_blocked()  # nobody listens: it has tried, and pauses
            await tasks.start(door.serve)
            assert (await door.received.receive()).members == [MEMBER]
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\nwhy", b"HTTP/1.1 204 No Content\r\n\r\n", b"", b"nonsense"]
)
async def test_any_other_answer_is_an_error(short_path: Path, answer: bytes) -> None:
    door = FakeDoor(short_path / "s", answer)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks, door.send, door.received:
            await tasks.start(door.serve)
            with pytest.raises(OSError, match="refused PUT /members"):
                await put_members(str(door.path), Members(members=[]))
            tasks.cancel_scope.cancel()


async def test_what_the_proxy_tells_in_return_is_passed_on(short_path: Path) -> None:
    door = FakeDoor(short_path / "s")
    gone = Member(name="generation-0", role="generation", model="m", url="h:2", incarnation="g.1")
    answers = [
        Told(in_use={"g.1": 2, "h:3": 1}, others=[Member(name="x", role="both", model="m", url="h:3")]),
        Told(in_use={MEMBER.identity: 5}),
    ]
    got: list[tuple[list[str], Told]] = []

    def on_told(members: Members, told: Told) -> None:
        got.append(([m.name for m in members.members], told))
        door.answer = b"HTTP/1.1 200 OK\r\n\r\n" + msgspec.json.encode(answers[min(len(got), 1)])

    door.answer = b"HTTP/1.1 200 OK\r\n\r\n" + msgspec.json.encode(answers[0])
    client = MembersClient(door.path, on_told)
    client.update([MEMBER], coming={"m": ["generation"]})
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks, door.send, door.received:
            await tasks.start(door.serve)
            tasks.start_soon(client.run)
            assert (await door.received.receive()).coming == {"m": ["generation"]}
            asked = [anyio.current_time()]
            for _ in range(2):
                await door.received.receive()
                asked.append(anyio.current_time())
            tasks.cancel_scope.cancel()
    assert got[0] == ([MEMBER.name], answers[0])
    assert gone.identity in got[0][1].in_use
    first_pause_s, second_pause_s = (later - earlier for earlier, later in itertools.pairwise(asked))
    assert first_pause_s < 0.7, "a server that has left is in use: asked again soon"
    assert second_pause_s > 0.7, "what is in use is in the set"


async def test_an_answer_that_cannot_be_read_is_an_error(short_path: Path) -> None:
    door = FakeDoor(short_path / "s", b"HTTP/1.1 200 OK\r\n\r\nnonsense")
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks, door.send, door.received:
            await tasks.start(door.serve)
            with pytest.raises(OSError, match="cannot be read"):
                await put_members(str(door.path), Members(members=[]))
            tasks.cancel_scope.cancel()


async def test_a_proxy_that_does_not_answer_is_given_up(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtdisagg.registry.client.TIMEOUT_S", 0.1)
    async with await anyio.create_unix_listener(short_path / "s"):
        with pytest.raises(TimeoutError):
            await put_members(str(short_path / "s"), Members(members=[]))


async def test_a_proxy_that_ends_in_the_midst_of_what_it_is_told_is_no_fault_of_ours(short_path: Path) -> None:
    """It takes the connection and is gone, while more is to be sent than the socket holds."""
    path = short_path / "m.sock"
    members = [Member(name=f"context-{i}", role="context", model="m" * 1000, url="127.0.0.1:1") for i in range(1000)]
    async with await anyio.create_unix_listener(path) as listener, anyio.create_task_group() as tasks:

        async def end() -> None:
            await (await listener.accept()).aclose()

        tasks.start_soon(end)
        with pytest.raises(OSError, match="the proxy closed the connection"):
            await put_members(str(path), Members(members=members))
