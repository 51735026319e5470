"""A cluster on several nodes: the head inside the test, node agents as processes, fake engines on both.

The nodes are addresses of this machine (127.0.0.2, ...). Between node agents and head is a relay that can be cut.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import msgspec
from helpers.agents import RunningAgent, running_agent
from helpers.plans import FAKE_ENGINE, host

from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.config.supervisor_keys import SupervisionConfig
from trtdisagg.protocol.nodes import Hello
from trtdisagg.supervisor.host import discover
from trtdisagg.supervisor.nodes.links import NodeLinks
from trtdisagg.supervisor.nodes.node import Node
from trtdisagg.supervisor.nodes.rendezvous import Rendezvous
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import ModelFacts, Plan, make_plan

NODE = [sys.executable, str(Path(__file__).resolve().parents[1] / "fakes" / "node.py")]
HEAD = "node00"
SECRET = b"5ec4e7" * 8
_END_TIMEOUT_S = 60.0


class NodeProcess:
    """One node agent."""

    def __init__(self, name: str, directory: Path, *, digest: str = "same", secret: str | None = None) -> None:
        self.name = name
        self.address = f"127.0.0.{2 + int(name[-2:])}"
        argv = [*NODE, name, str(directory), digest, self.address, *([secret] if secret else [])]
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
        self.process = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ended(self, timeout_s: float = 60) -> tuple[int, str]:
        """Wait for its end: exit code, and what it has said."""
        said, _ = await anyio.to_thread.run_sync(lambda: self.process.communicate(timeout=timeout_s))
        return self.process.returncode, said.decode()

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """It ends with its head, which is gone by now."""
        with self.process:
            try:
                self.process.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                raise


class Relay:
    """Passes bytes on, until it is cut, or keeps them, as a network does that has lost a host."""

    def __init__(self) -> None:
        self.port = self.to_port = 0
        self._is_cut = False
        self._flows = asyncio.Event()
        self._flows.set()
        self._ends: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut()
        self._flows.set()
        self._server.close()
        await asyncio.gather(*self._tasks)

    def cut(self) -> None:
        self._is_cut = True
        for end in self._ends:
            end.transport.abort()

    def mend(self) -> None:
        self._is_cut = False

    def freeze(self) -> None:
        self._flows.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self.to_port)
        self._ends |= {writer, to_writer}
        for a, b in ((reader, to_writer), (to_reader, writer)):
            task = asyncio.create_task(self._pass_on(a, b))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(65536):
                await self._flows.wait()
                writer.write(piece)
                await writer.drain()
        writer.close()


class Nodes:
    """The head's side, before there is an agent."""

    def __init__(self, directory: Path, links: NodeLinks, relay: Relay) -> None:
        self.directory = directory
        self.links = links
        self.relay = relay
        self.notices: list[str] = []
        links.on_notice = self.notices.append

    def plan(self, others: list[Node], *, with_proxy: bool = False, **supervision: Any) -> Plan:
        """A context server on each node but the head's; with a proxy, which is there, a generation server, too."""
        one = ServerSection(command=FAKE_ENGINE, num_instances=len(others))
        cluster = ClusterFile(
            model="fake",
            port=0,
            context_servers=one,
            generation_servers=one if with_proxy else None,
            supervision=SupervisionConfig(
                **{"backoff_s": 0.1, "kill_timeout_s": 5, "drain_timeout_s": 5, **supervision}
            ),
        )
        facts = {"fake": ModelFacts(path="fake", served_name="fake", dimensions=None)}
        return make_plan(cluster, name="test", host=discover(), models=facts, nodes=others, with_proxy=with_proxy)

    @contextlib.asynccontextmanager
    async def running(self, plan: Plan, place: Place) -> AsyncIterator[RunningAgent]:
        async with running_agent(plan, place, self.links) as agent:
            yield agent


def hello(**changes: Any) -> Hello:
    """What a node agent says of itself."""
    facts: dict[str, Any] = {
        "node": "node01",
        "address": "10.0.0.1",
        "host": msgspec.Raw(msgspec.msgpack.encode(host(2))),
        "digest": "",
        "file": "",
        "session": "s",
        "is_new": True,
        "received": 0,
        "pid": 1,
        "nonce": b"",
        "proof": b"",
    }
    return Hello(**{**facts, **changes})


@contextlib.asynccontextmanager
async def head(directory: Path, *names: str, timeout_s: float = 30.0, secret: bytes = SECRET) -> AsyncIterator[Nodes]:
    """A head that takes these nodes in."""
    links = NodeLinks(
        HEAD,
        [HEAD, *names],
        address="127.0.0.1",
        secret=secret,
        digest="same",
        file="/head/cluster.yaml",
        timeout_s=timeout_s,
    )
    async with Relay() as relay, links:
        relay.to_port = links.port
        await links.announce(directory, Rendezvous(host="127.0.0.1", port=relay.port, secret=secret.hex()))
        yield Nodes(directory, links, relay)
