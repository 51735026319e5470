"""Head and node agent over real connections that are cut again and again, in one process."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from pathlib import Path

import anyio
import pytest
from helpers.nodes import head
from helpers.plans import host

from trtdisagg.errors import CrashLoopError, StartupError
from trtdisagg.protocol.frames import frame
from trtdisagg.protocol.nodes import Bye, Line, Signal, ToHead, ToNode
from trtdisagg.supervisor.nodes.head_link import HeadLink, Membership
from trtdisagg.supervisor.nodes.rendezvous import Rendezvous, announced

pytestmark = pytest.mark.anyio


class Process:
    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def heard(self, message: ToHead) -> None:
        assert isinstance(message, Line)
        self.lines.append(message.line)

    def lost(self, why: str) -> None:
        raise AssertionError(why)


class Node:
    """A node agent that only listens."""

    def __init__(self, directory: Path, *, timeout_s: float = 20.0) -> None:
        self.heard: list[ToNode] = []
        self.events: list[str] = []
        self.secret = b""
        self.is_in = anyio.Event()
        membership = Membership(
            node="node01", host=host(2), digest="same", file="f", directory=directory, timeout_s=timeout_s
        )
        self.link = HeadLink(
            membership, "s", handle=self.heard.append, on_let_in=self._let_in, on_event=self.events.append
        )

    def _let_in(self, secret: bytes) -> None:
        self.secret = secret
        self.is_in.set()


async def test_whatever_is_cut_and_when_all_arrives_once_in_order(tmp_path: Path, num_rounds: int) -> None:
    node, process = Node(tmp_path / "meet"), Process()
    async with head(tmp_path / "meet", "node01") as nodes, anyio.create_task_group() as tasks:
        tasks.start_soon(node.link.run)
        (there,) = await nodes.links.gather(60)
        assert (there.name, there.address, there.host, there.is_here) == ("node01", "127.0.0.1", host(2), True)
        link = nodes.links._links["node01"]
        link.processes["p"] = process
        expected: list[bytes] = []
        for i in range(3 * num_rounds):
            for j in range(500):
                expected.append(b"%d.%d" % (i, j))
                node.link.say(Line(process="p", line=expected[-1]))
                link.send(Signal(process="p", number=len(expected)))
                if j % 100 == i % 100:
                    await anyio.lowlevel.checkpoint()
                if j == 250:
                    nodes.relay.cut()
                    nodes.relay.mend()
            with anyio.fail_after(60):
                while nodes.notices.count("node01 is back") <= i:
                    await anyio.sleep(0.01)
        with anyio.fail_after(60):
            while len(process.lines) < len(expected) or len(node.heard) < len(expected):
                await anyio.sleep(0.01)
        assert process.lines == expected
        assert node.heard == [Signal(process="p", number=i + 1) for i in range(len(expected))]
        link.processes.clear()
        tasks.cancel_scope.cancel()


async def test_the_nodes_hear_with_what_the_head_ends(tmp_path: Path) -> None:
    node = Node(tmp_path / "meet")
    async with anyio.create_task_group() as tasks:
        with contextlib.suppress(CrashLoopError):
            async with head(tmp_path / "meet", "node01") as nodes:
                tasks.start_soon(node.link.run)
                await nodes.links.gather(60)
                raise CrashLoopError("again and again")
        tasks.cancel_scope.cancel()
    assert node.heard == [Bye(exit_code=CrashLoopError.exit_code, reason="the head goes down")]


async def test_a_file_that_leads_to_a_head_of_before_is_looked_at_again(tmp_path: Path) -> None:
    """Nobody listens there any more; the head of this run comes later."""
    node = Node(tmp_path / "meet")
    async with anyio.create_task_group() as tasks:
        async with announced(tmp_path / "meet", Rendezvous(host="127.0.0.1", port=1, secret="00")):
            tasks.start_soon(node.link.run)
            await anyio.wait_all_tasks_blocked()
            async with head(tmp_path / "meet", "node01") as nodes:
                await nodes.links.gather(60)
                with anyio.fail_after(60):
                    await node.is_in.wait()
                assert node.secret == nodes.links.secret
        tasks.cancel_scope.cancel()


async def test_where_no_head_is_the_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        StartupError, match=r"there is no head.json in .*/nowhere \(.*\). Is .*/nowhere on a file system that all"
    ):
        await Node(tmp_path / "nowhere", timeout_s=0.05).link.run()


async def test_a_head_without_descriptors_takes_nodes_in_when_it_has_some_again(tmp_path: Path) -> None:
    node = Node(tmp_path / "meet")
    async with head(tmp_path / "meet", "node01", timeout_s=1) as nodes, anyio.create_task_group() as tasks:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as early:
            used = len(os.listdir("/proc/self/fd"))
            resource.setrlimit(resource.RLIMIT_NOFILE, (used - 1, before[1]))
            try:
                early.connect(("127.0.0.1", nodes.links.port))
                with anyio.fail_after(60):
                    while not nodes.notices:
                        await anyio.sleep(0.01)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert nodes.notices[0] == "node agents cannot come in: [Errno 24] Too many open files"
        tasks.start_soon(node.link.run)
        await nodes.links.gather(60)
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 64,
        b"\0\0\0\x01",
        b"\0\0\0\x02\xc0\xc0",
        b"\0\0\0\x02\x81\xa1",
        frame(b"\x82\xa4type\xa5hello\xa4node\xa1\xff"),
        frame(b"\x82\xa4type\xa5hello\xa4none" + 10000 * b"\x91"),
    ],
    ids=range(8),
)
async def test_whoever_comes_and_says_something_else_keeps_nobody_out(tmp_path: Path, said: bytes) -> None:
    """Nothing, another protocol, a message that is too large, half a message, one that means nothing, one that ends
    within, a name that is no text, a value of too many values in each other."""
    node = Node(tmp_path / "meet")
    async with head(tmp_path / "meet", "node01") as nodes, anyio.create_task_group() as tasks:
        async with await anyio.connect_tcp("127.0.0.1", nodes.links.port) as stranger:
            await stranger.receive()  # the challenge
            if said:
                await stranger.send(said)
            tasks.start_soon(node.link.run)
            await nodes.links.gather(60)
        assert nodes.notices == []
        tasks.cancel_scope.cancel()
