"""A fake engine: a real process that speaks the real protocol, without torch, and misbehaves on request.

    python tests/fakes/engine.py [misbehaviour] --spec FILE       (see --help)

What it says comes from words.py. Beside the routes of an engine it has some for tests:

    GET  /fake/state                                counters, held tickets, role, the last body of each leg
    GET  /fake/wait?name=cancelled&at_least=1       the same, once that counter is so high (or 504 after 50 s)
    POST /fake/hold /fake/go                        stop before the next token of generation, go on
    POST /fake/stick /fake/unstick                  be stuck: work to do, no progress, all else as before; go on
    POST /fake/flags {"cut_at_token": 3}            misbehave as with these flags from now on
    POST /fake/release {"request_id": N}            what a generation server does when it has fetched the blocks
    POST /fake/evict                                drop all blocks from the cache (told on GET /kv_events)
    POST /fake/deafen                               ignore SIGTERM from now on
    POST /fake/spawn                                have a grandchild in a session of its own, told by the state
    POST /fake/print {"num_bytes": N}               print so much, in lines

It starts in a sixth of a second, so that a cluster of many can be brought up on a small machine: nothing is imported
before it is needed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec
from fakes.condition import Condition
from fakes.follower import follow, followed
from fakes.legs import die
from fakes.server import Server
from fakes.tiny_http import HttpServer
from msgspec.structs import replace

from trtdisagg.protocol.commands import Commands, Gone, Meet, SwitchRole
from trtdisagg.protocol.parent import end_with_parent
from trtdisagg.protocol.reports import Failed, Linked, Loading, Reporter
from trtdisagg.protocol.spec import EngineSpec, PeerAddress

BEAT_S = 0.5


class FakeEngine:
    """One engine process.

    :param flags: how to misbehave.
    :param all_there: set when its other ranks are.
    """

    def __init__(
        self,
        spec: EngineSpec,
        flags: argparse.Namespace,
        reporter: Reporter,
        commands: Commands,
        all_there: asyncio.Event,
    ) -> None:
        self.spec = spec
        self.flags = flags
        self.reporter = reporter
        self.commands = commands
        self.condition = Condition(spec, flags)
        self.server = Server(self.condition)
        self._all_there = all_there
        self._signals: list[int] = []
        self._asked_to_end = asyncio.Event()
        self._asked_again = asyncio.Event()

    async def run(self) -> int:
        """Serve until SIGTERM, then drain; a second one cuts that short."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._record_signal, number)
        http = HttpServer(self.server.handle, max_body_bytes=self.spec.max_body_bytes)
        self.condition.port = await http.listen(self.spec.http_host, self.spec.port)
        self.reporter.send(Loading(stage="weights"))
        self._plan_misfortune(loop)
        if self.commands.fd is not None:
            loop.add_reader(self.commands.fd, self._obey)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._beat()), tasks.create_task(self._load())]
            await self._until_drained(tasks)
            for task in running:
                task.cancel()
        self.condition.cut_short = self._asked_again.is_set()
        await http.close()
        return 128 + self._signals[1] if self.condition.cut_short else 0

    def _record_signal(self, number: int) -> None:
        if not self.flags.ignore_sigterm:
            self._signals.append(number)
            (self._asked_again if self._asked_to_end.is_set() else self._asked_to_end).set()

    async def _until_drained(self, tasks: asyncio.TaskGroup) -> None:
        await self._asked_to_end.wait()
        self.condition.draining = True
        waits = [tasks.create_task(self._drain()), tasks.create_task(self._asked_again.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    async def _drain(self) -> None:
        await asyncio.sleep(self.flags.slow_drain)
        await self.condition.idle.wait()

    def _plan_misfortune(self, loop: asyncio.AbstractEventLoop) -> None:
        flags = self.flags
        if flags.spawn_grandchild or flags.fork:
            import subprocess

            own_session = bool(flags.spawn_grandchild)
            self.server.grandchild = subprocess.Popen(["sleep", "3600"], start_new_session=own_session).pid
            print(f"grandchild {self.server.grandchild}", flush=True)
        if flags.freeze_after is not None:
            loop.call_later(flags.freeze_after, time.sleep, 3600)
        if flags.stuck_after is not None:
            loop.call_later(flags.stuck_after, self.condition.stick)

    async def _load(self) -> None:
        await asyncio.sleep(self.flags.ready_after)
        if self.flags.fail_loading or self.flags.fail_for_good:
            print("fake engine: cannot load the weights", file=sys.stderr, flush=True)
            self.reporter.send(Failed(message="cannot load the weights", fatal=self.flags.fail_for_good))
            os._exit(1)
        await self._all_there.wait()
        self.condition.ready = True
        self.reporter.send(self.condition.readiness())
        print(f"fake engine: {self.spec.name} serves on port {self.condition.port}", flush=True)
        if self.flags.die_after is not None:
            asyncio.get_running_loop().call_later(self.flags.die_after, die, "after the time asked for")

    def _obey(self) -> None:
        for command in self.commands.receive():
            match command:
                case SwitchRole(role=role):
                    self.condition.role = role
                    print(f"fake engine: the role is {role} now", flush=True)
                    if self.condition.ready:
                        self.reporter.send(self.condition.readiness())
                case Meet(peer=peer):
                    self._meet(peer)
                case Gone(incarnation=incarnation):
                    self.condition.gone.append(incarnation)
        if self.commands.is_over and self.commands.fd is not None:
            asyncio.get_running_loop().remove_reader(self.commands.fd)
            self.commands.close()

    def _meet(self, peer: PeerAddress) -> None:
        self.condition.met.append(peer.incarnation)
        if self.flags.never_meets:
            return
        linked = Linked(server=peer.server, incarnation=peer.incarnation)
        if self.flags.cannot_meet:
            self.reporter.send(replace(linked, error="no way to get there"))
        else:
            self.reporter.send(replace(linked, transport="local", direction="pull", gb_s=10.0, latency_us=20.0))

    async def _beat(self) -> None:
        while True:
            self.reporter.send(self.condition.beat())
            await asyncio.sleep(BEAT_S)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", required=True, help="file with an EngineSpec")
    parser.add_argument("--ready-after", type=float, default=0.0, metavar="S")
    parser.add_argument("--die-after", type=float, metavar="S", help="exit 1, so long after it was ready")
    parser.add_argument("--die-at-token", type=int, metavar="N", help="exit 1 instead of token N (from 0) of a request")
    parser.add_argument("--cut-at-token", type=int, metavar="N", help="cut the connection at token N")
    parser.add_argument("--cut", choices=("before", "within", "behind"), default="before", help="where, of its event")
    parser.add_argument("--error-at-token", type=int, metavar="N", help="end the stream with an error (--fail-status)")
    parser.add_argument("--silent-at-token", type=int, metavar="N", help="a stream goes silent")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--slow-drain", type=float, default=0.0, metavar="S", help="SIGTERM takes at least so long")
    parser.add_argument("--fork", action="store_true", help="have a child of its own, in the same process group")
    parser.add_argument("--spawn-grandchild", action="store_true", help="in a session of its own")
    parser.add_argument("--freeze-after", type=float, metavar="S", help="the loop stops for ever; no beats, no answers")
    parser.add_argument("--stuck-after", type=float, metavar="S", help="as POST /fake/stick: beats, but no progress")
    parser.add_argument("--canary-fails", action="store_true", help="/health_generate is 503, all else is well")
    parser.add_argument("--fail-loading", action="store_true", help="report Failed and exit 1")
    parser.add_argument("--fail-for-good", action="store_true", help="the same, and say that a restart cannot help")
    parser.add_argument("--fail-context", type=int, default=0, metavar="N", help="refuse the first N context legs")
    parser.add_argument("--fail-generation", type=int, default=0, metavar="N")
    parser.add_argument("--fail-status", type=int, default=503, metavar="STATUS", help="how they are refused")
    parser.add_argument("--foreign", action="store_true", help="no seam, no /server_info: as TensorRT-LLM's server")
    parser.add_argument("--hold-generation", action="store_true", help="until POST /fake/go")
    parser.add_argument("--token-delay-ms", type=float, default=0.0)
    parser.add_argument("--one-batch", action="store_true", help="generate for max_batch_size requests, others wait")
    parser.add_argument("--never-meets", action="store_true", help="no answer when it is asked to meet a server")
    parser.add_argument("--cannot-meet", action="store_true", help="the answer is that it cannot")
    parser.add_argument("--only-rank", type=int, metavar="N", help="the other ranks of the server behave well")
    return parser


def main() -> int:
    parser = _parser()
    flags = parser.parse_args()
    spec = msgspec.json.decode(Path(flags.spec).read_bytes(), type=EngineSpec)
    if flags.only_rank not in (None, spec.rank):
        flags = parser.parse_args(["--spec", flags.spec])
    end_with_parent(spec.parent_pid)
    reporter, commands = Reporter(spec.report_fd), Commands(spec.command_fd)
    try:
        return asyncio.run(_run(spec, flags, reporter, commands))
    finally:
        commands.close()
        reporter.close()


async def _run(spec: EngineSpec, flags: argparse.Namespace, reporter: Reporter, commands: Commands) -> int:
    if spec.rank:
        return await follow(spec, flags, reporter)
    async with followed(spec) as all_there:
        return await FakeEngine(spec, flags, reporter, commands, all_there).run()


if __name__ == "__main__":
    sys.exit(main())
