"""Both ends prove themselves: whoever does not know the secret is let in by neither."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
import pytest
from helpers.nodes import hello

from trtdisagg.protocol.nodes import Challenge, Hello, Refused, Welcome
from trtdisagg.supervisor.nodes.greeting import RefusedError, admit, introduce
from trtdisagg.supervisor.nodes.stream import Stream, StreamError

pytestmark = pytest.mark.anyio
SECRET = bytes(range(32))
WELCOME = Welcome(received=0, timeout_s=10, proof=b"")


class End:
    """One end of a connection in memory; what goes in is kept, too."""

    def __init__(self, out: Any, into: Any) -> None:
        self.out, self.into = out, into
        self.sent: list[bytes] = []

    async def send(self, data: bytes) -> None:
        self.sent.append(data)
        await self.out.send(data)

    async def receive(self) -> bytes:
        return bytes(await self.into.receive())

    async def aclose(self) -> None:
        self.out.close()
        self.into.close()


def connection() -> tuple[End, End]:
    to_b, from_a = anyio.create_memory_object_stream[bytes](8)
    to_a, from_b = anyio.create_memory_object_stream[bytes](8)
    return End(to_b, from_b), End(to_a, from_a)


async def meet(head_secret: bytes, node_secret: bytes, **changes: Any) -> tuple[object, object]:
    """What came of it at either end: what it was told, or its error."""
    ends = connection()
    results: list[object] = [None, None]

    async def run(i: int, stream: Stream) -> None:
        async with stream:
            try:
                if i == 0:
                    results[0] = await admit(stream, head_secret, lambda _: WELCOME)
                else:
                    results[1] = await introduce(stream, node_secret, lambda: hello(**changes))
            except (RefusedError, StreamError) as e:
                results[i] = e

    async with anyio.create_task_group() as tasks:
        for i, end in enumerate(ends):
            tasks.start_soon(run, i, Stream(end))  # type: ignore[arg-type]
    assert not any(head_secret in sent or node_secret in sent for end in ends for sent in end.sent)
    return results[0], results[1]


async def test_who_knows_the_secret_is_let_in() -> None:
    came, welcome = await meet(SECRET, SECRET)
    assert isinstance(came, Hello)
    assert came.node == "node01"
    assert isinstance(welcome, Welcome)


async def test_who_does_not_is_refused() -> None:
    results = await meet(SECRET, b"a guess")
    assert [str(result) for result in results] == ["node01 does not know the secret of this run"] * 2


async def test_the_name_of_a_stranger_is_told_so_that_it_does_no_harm() -> None:
    came, _ = await meet(SECRET, b"a guess", node="\x1b[2J\n" + 1000 * "x")
    assert str(came) == f"\\x1b[2J\\n{59 * 'x'} does not know the secret of this run"


async def test_another_release_is_refused_by_its_version() -> None:
    results = await meet(SECRET, SECRET, wire_version=0)
    assert all("speaks wire version 0" in str(result) for result in results)


async def test_a_head_that_does_not_know_the_secret_is_not_obeyed() -> None:
    head, node = connection()
    async with anyio.create_task_group() as tasks:

        async def pretend() -> None:
            stream = Stream(head)  # type: ignore[arg-type]
            await stream.send(Challenge(nonce=b"n" * 32), timeout_s=5)
            came = await stream.receive(msgspec.msgpack.Decoder(Hello), timeout_s=5)
            # What the node has proved is no proof of ours.
            await stream.send(Welcome(received=0, timeout_s=10, proof=came.proof), timeout_s=5)
            await head.aclose()

        tasks.start_soon(pretend)
        async with Stream(node) as stream:  # type: ignore[arg-type]
            with pytest.raises(RefusedError, match="the head does not know the secret"):
                await introduce(stream, SECRET, hello)


async def test_what_is_of_no_protocol_ends_the_connection() -> None:
    head, node = connection()
    async with Stream(head) as stream, anyio.create_task_group() as tasks:  # type: ignore[arg-type]
        tasks.start_soon(node.send, b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(StreamError, match="not of our protocol"):
            await admit(stream, SECRET, lambda _: WELCOME)
    await node.aclose()
    head, node = connection()
    async with Stream(node) as stream, anyio.create_task_group() as tasks:  # type: ignore[arg-type]
        tasks.start_soon(head.aclose)
        with pytest.raises(StreamError, match="the connection was closed"):
            await introduce(stream, SECRET, hello)


async def test_a_reason_is_passed_on_as_it_is() -> None:
    head, node = connection()

    def check(_: Hello) -> Welcome:
        raise RefusedError("it is full")

    async def admitted() -> None:
        async with Stream(head) as stream:  # type: ignore[arg-type]
            with pytest.raises(RefusedError, match="it is full"):
                await admit(stream, SECRET, check)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(admitted)
        async with Stream(node) as stream:  # type: ignore[arg-type]
            with pytest.raises(RefusedError, match="it is full"):
                await introduce(stream, SECRET, hello)
    assert msgspec.msgpack.decode(head.sent[-1][4:], type=Refused).reason == "it is full"
