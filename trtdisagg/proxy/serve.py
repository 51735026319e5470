"""The proxy's process: opens, says that it is ready, beats, drains, closes.

The first SIGTERM (or Ctrl-C) drains: nobody is accepted any more, what runs is answered. The second ends what runs:
with an error event where an answer has begun, with a 503 elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket

import uvloop
from msgspec.structs import replace

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.net import open_sockets
from trtdisagg.protocol.parent import end_with_parent
from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.protocol.reports import Beat, Failed, Ready, Reporter
from trtdisagg.proxy.app import App
from trtdisagg.proxy.attached import attached
from trtdisagg.proxy.completions import Completions
from trtdisagg.proxy.door.entrance import open_entrance
from trtdisagg.proxy.door.watched import watch
from trtdisagg.proxy.http.descriptors import allow_connections
from trtdisagg.proxy.http.http_server import Door, serving
from trtdisagg.proxy.http.listen import take_sockets
from trtdisagg.proxy.http.pool import Pool
from trtdisagg.proxy.means import Means
from trtdisagg.proxy.members.doubts import Doubts
from trtdisagg.proxy.members.health import SOURCE as FIXED
from trtdisagg.proxy.members.health import Health
from trtdisagg.proxy.members.members_door import SOURCE as AGENT
from trtdisagg.proxy.memory import keep_memory
from trtdisagg.proxy.workers.workers import Workers
from trtdisagg.registry.members import Roster
from trtdisagg.registry.open import read_secret

BEAT_S = 0.5
GC_OBJECTS = 20_000
"""New ones until cycles are looked for; Python's own 700 come together several times a second."""
FIRST_WORDS_S = 2.0
"""For an agent to tell, and for servers with fixed addresses to be looked at."""

logger = logging.getLogger(__name__)


def run_proxy(spec: ProxySpec) -> int:
    """Be the proxy until asked to end.

    :returns: the exit code: 0 after a drain; started by hand, 128+N after signal N, as of any command.
    """
    end_with_parent(spec.parent_pid)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    with contextlib.closing(Reporter(spec.report_fd)) as reporter:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(_serve(spec, reporter))
        except (ConfigError, StartupError) as e:
            logger.error("%s", e)
            reporter.send(Failed(message=e.message, fatal=True))
            return e.exit_code


async def _serve(spec: ProxySpec, reporter: Reporter) -> int:
    signals = _Signals()
    secret = read_secret(spec.secret_file)
    roster, pool = Roster(), Pool(secret)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(pool.close_idle)
        entrance = stack.enter_context(open_entrance(spec, secret))
        workers = stack.enter_context(Workers(spec))
        means = Means.make(spec, roster, pool, workers.loads)
        sockets = [stack.enter_context(sock) for sock in _open_sockets(spec)]
        await stack.enter_async_context(workers.meeting(means))
        pages = attached(spec, roster, pool, workers, secret=secret)
        completions = Completions(means)
        answers = {**await stack.enter_async_context(pages), **workers.client_pages}
        app = App(means, completions, answers, entrance)
        # Last: what fails behind it would come as a group of errors.
        await stack.enter_async_context(means.readers.open())
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(Health(pool, roster, spec.servers).run()),
                tasks.create_task(Doubts(pool, roster, means.legs).run()),
                tasks.create_task(means.releases.run()),
                tasks.create_task(means.texts.run()),
                tasks.create_task(means.index.run()),
                tasks.create_task(_beat(reporter, means)),
                tasks.create_task(watch(entrance.watched)),
            ]
            port = sockets[0].getsockname()[1]
            logger.info("listening on %s:%d", spec.host, port)
            reporter.send(Ready(host=spec.host, port=port))
            await _first_words(spec, roster)
            _spare_the_collector()
            keep_memory()
            async with serving(
                app.handle,
                sockets,
                spec.max_body_bytes,
                max_connections=allow_connections(spec.max_connections),
                tls=entrance.tls.context if entrance.tls else None,
            ) as door:
                exit_code = await _until_asked_to_end(app, completions, door, signals)
            for task in running:
                task.cancel()
    by_hand = spec.parent_pid is None and "NOTIFY_SOCKET" not in os.environ
    return 128 + signals.number if by_hand else exit_code


def _spare_the_collector() -> None:
    """What is there by now stays, so it need not be looked through again and again; and as requests leave few cycles
    behind, it is enough to look for them now and then."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 20, 20)


async def _first_words(spec: ProxySpec, roster: Roster) -> None:
    """Wait, not for long, until it is known whom to route to. Who has come meanwhile is kept by the kernel."""
    sources = {source for source, there in ((AGENT, spec.members_socket), (FIXED, spec.servers)) if there}
    changed = asyncio.Event()
    roster.watch(changed.set)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_WORDS_S):
            while not roster.has_heard_of(sources):
                changed.clear()
                await changed.wait()


async def _until_asked_to_end(app: App, completions: Completions, door: Door, signals: _Signals) -> int:
    """
    :returns: the exit code.
    """
    await signals.first.wait()
    logger.info("draining")
    app.is_draining = True
    await door.close()
    async with asyncio.TaskGroup() as tasks:
        drained = tasks.create_task(_drain(completions, door))
        second = tasks.create_task(signals.second.wait())
        await asyncio.wait([drained, second], return_when=asyncio.FIRST_COMPLETED)
        has_drained = drained.done()
        drained.cancel()
        second.cancel()
    if has_drained:
        return 0
    logger.info("ending what runs")
    completions.end()
    return 128 + signals.number


async def _drain(completions: Completions, door: Door) -> None:
    """Wait until nothing runs and nobody who is connected is about to ask."""
    await door.until_quiet()
    while not completions.idle.is_set():
        await completions.idle.wait()
        await door.until_quiet()


async def _beat(reporter: Reporter, means: Means) -> None:
    while True:
        stats = replace(means.metrics.stats(), num_unknown_caches=means.index.num_unknown())
        reporter.send(Beat(stats=stats))
        await asyncio.sleep(BEAT_S)


def _open_sockets(spec: ProxySpec) -> list[socket.socket]:
    if spec.listen_fds:
        return take_sockets(spec.listen_fds, stuck_timeout_s=spec.idle_timeout_s)
    return open_sockets(spec.host, spec.port, stuck_timeout_s=spec.idle_timeout_s)


class _Signals:
    """Records SIGTERM and SIGINT; what they mean is decided elsewhere."""

    def __init__(self) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self.number = 0
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._record, number)

    def _record(self, number: int) -> None:
        (self.second if self.first.is_set() else self.first).set()
        self.number = number
