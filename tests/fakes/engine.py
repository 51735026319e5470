"""A fake engine: a real process that speaks the real protocol, without torch, and misbehaves on request.

    python tests/fakes/engine.py [misbehaviour] --spec FILE       (see --help)

What it says comes from words.py. Beside the routes of an engine it has some for tests:

    GET  /fake/state                                counters, held tickets, the last body of each leg
    GET  /fake/wait?name=cancelled&at_least=1       the same, once that counter is so high (or 504 after 20 s)
    POST /fake/hold /fake/go                        stop before the next token of generation, go on
    POST /fake/release {"request_id": N}            what a generation server does when it has fetched the blocks
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import msgspec
from aiohttp import web
from fakes.server import Server, die

from trtdisagg.protocol.parent import end_with_parent
from trtdisagg.protocol.reports import Reporter
from trtdisagg.protocol.spec import Beat, EngineSpec, Failed, Loading, Ready, Stats

BEAT_S = 0.5


class FakeEngine:
    """One engine process.

    :param flags: how to misbehave.
    """

    def __init__(self, spec: EngineSpec, flags: argparse.Namespace, reporter: Reporter) -> None:
        self.spec = spec
        self.flags = flags
        self.reporter = reporter
        self.server = Server(spec, flags)
        self._asked_to_end = asyncio.Event()
        self._asked_again = asyncio.Event()

    async def run(self) -> int:
        """Serve until SIGTERM, then drain."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._record_signal)
        runner = web.AppRunner(self.server.app(), handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, self.spec.host, self.spec.port)
        await site.start()
        self.server.port = runner.addresses[0][1]
        self.reporter.send(Loading(stage="weights"))
        self._plan_misfortune(loop)
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(self._beat()), tasks.create_task(self._load())]
            await self._until_drained(tasks)
            for task in running:
                task.cancel()
        await runner.cleanup()
        return 0

    def _record_signal(self) -> None:
        if not self.flags.ignore_sigterm:
            (self._asked_again if self._asked_to_end.is_set() else self._asked_to_end).set()

    async def _until_drained(self, tasks: asyncio.TaskGroup) -> None:
        await self._asked_to_end.wait()
        self.server.draining = True
        waits = [tasks.create_task(event.wait()) for event in (self.server.idle, self._asked_again)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _plan_misfortune(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.flags.spawn_grandchild:
            self.server.grandchild = subprocess.Popen(["sleep", "3600"], start_new_session=True).pid
            print(f"grandchild {self.server.grandchild}", flush=True)
        if self.flags.die_after is not None:
            loop.call_later(self.flags.die_after, die, "after the time asked for")
        if self.flags.freeze_after is not None:
            loop.call_later(self.flags.freeze_after, time.sleep, 3600)

    async def _load(self) -> None:
        await asyncio.sleep(self.flags.ready_after)
        if self.flags.fail_loading or self.flags.fail_for_good:
            print("fake engine: cannot load the weights", file=sys.stderr, flush=True)
            self.reporter.send(Failed(message="cannot load the weights", fatal=self.flags.fail_for_good))
            os._exit(1)
        self.server.ready = True
        spec = self.spec
        self.reporter.send(
            Ready(
                host=spec.host,
                port=self.server.port,
                max_seq_len=spec.max_seq_len,
                num_blocks=spec.num_blocks,
                tokens_per_block=spec.tokens_per_block,
                dtype=spec.dtype,
            )
        )
        print(f"fake engine: {spec.name} serves on port {self.server.port}", flush=True)

    async def _beat(self) -> None:
        while True:
            counters = self.server.counters
            stats = Stats(
                num_running=counters.running,
                num_steps_total=counters.tokens,
                num_requests_total=counters.context + counters.generation + counters.aggregated,
                num_generation_tokens_total=counters.tokens,
                num_blocks=self.spec.num_blocks,
                num_used_blocks=min(counters.running + counters.held, self.spec.num_blocks),
                num_held_blocks=counters.held,
                num_transfers_total=counters.fetched,
            )
            self.reporter.send(Beat(stats=stats))
            await asyncio.sleep(BEAT_S)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spec", required=True, help="file with an EngineSpec")
    parser.add_argument("--ready-after", type=float, default=0.0, metavar="S")
    parser.add_argument("--die-after", type=float, metavar="S", help="exit 1, counted from the start")
    parser.add_argument("--die-at-token", type=int, metavar="N", help="exit 1 instead of token N (from 0) of a request")
    parser.add_argument("--cut-at-token", type=int, metavar="N", help="cut the connection instead")
    parser.add_argument("--ignore-sigterm", action="store_true")
    parser.add_argument("--spawn-grandchild", action="store_true", help="in a session of its own")
    parser.add_argument("--freeze-after", type=float, metavar="S", help="the loop stops for ever; no beats, no answers")
    parser.add_argument("--fail-loading", action="store_true", help="report Failed and exit 1")
    parser.add_argument("--fail-for-good", action="store_true", help="the same, and say that a restart cannot help")
    parser.add_argument("--fail-context", type=int, default=0, metavar="N", help="refuse the first N context legs")
    parser.add_argument("--fail-generation", type=int, default=0, metavar="N")
    parser.add_argument("--fail-status", type=int, default=503, metavar="STATUS", help="how they are refused")
    parser.add_argument("--foreign", action="store_true", help="no seam, no /server_info: as TensorRT-LLM's server")
    parser.add_argument("--hold-generation", action="store_true", help="until POST /fake/go")
    parser.add_argument("--token-delay-ms", type=float, default=0.0)
    return parser.parse_args()


def main() -> int:
    flags = _parse()
    spec = msgspec.json.decode(Path(flags.spec).read_bytes(), type=EngineSpec)
    end_with_parent(spec.parent_pid)
    reporter = Reporter(spec.report_fd)
    with contextlib.closing(reporter):
        return asyncio.run(_run(spec, flags, reporter))


async def _run(spec: EngineSpec, flags: argparse.Namespace, reporter: Reporter) -> int:
    return await FakeEngine(spec, flags, reporter).run()


if __name__ == "__main__":
    sys.exit(main())
