"""The proxy's process: opens, says that it is ready, beats, drains, closes.

The first SIGTERM (or Ctrl-C) drains: new requests get 503, those that run are answered. The second ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal

import uvloop

from trtdisagg.errors import StartupError
from trtdisagg.protocol.parent import end_with_parent
from trtdisagg.protocol.reports import Reporter
from trtdisagg.protocol.spec import Beat, Failed, ProxySpec, Ready
from trtdisagg.proxy.app import App
from trtdisagg.proxy.attached import attached
from trtdisagg.proxy.health import Health
from trtdisagg.proxy.http_server import serving
from trtdisagg.proxy.listen import open_sockets
from trtdisagg.proxy.means import Means
from trtdisagg.proxy.members_door import open_members_door
from trtdisagg.proxy.pool import Pool
from trtdisagg.registry.members import Roster
from trtdisagg.registry.open import read_secret

BEAT_S = 0.5

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
        except StartupError as e:
            logger.error("%s", e)
            reporter.send(Failed(message=e.message, fatal=True))
            return e.exit_code


async def _serve(spec: ProxySpec, reporter: Reporter) -> int:
    signals = _Signals()
    secret = read_secret(spec.secret_file)
    roster, pool = Roster(), Pool(secret)
    means = Means.make(spec, roster, pool)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(pool.close_idle)
        pages = attached(spec, roster, pool, secret=secret, in_use=means.uses.in_use)
        app = App(means, await stack.enter_async_context(pages))
        sockets = open_sockets(spec.host, spec.port, stuck_timeout_s=spec.idle_timeout_s)
        await stack.enter_async_context(serving(app.handle, sockets, spec.max_body_bytes))
        if spec.members_socket is not None:
            await stack.enter_async_context(open_members_door(spec.members_socket, roster, means.uses))
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(Health(pool, roster, spec.servers).run()),
                tasks.create_task(_beat(reporter, means)),
            ]
            port = sockets[0].getsockname()[1]
            logger.info("listening on %s:%d", spec.host, port)
            reporter.send(Ready(host=spec.host, port=port))
            exit_code = await _until_asked_to_end(app, signals, tasks)
            for task in running:
                task.cancel()
    by_hand = spec.parent_pid is None and "NOTIFY_SOCKET" not in os.environ
    return 128 + signals.number if by_hand else exit_code


async def _until_asked_to_end(app: App, signals: _Signals, tasks: asyncio.TaskGroup) -> int:
    await signals.first.wait()
    logger.info("draining")
    drained = tasks.create_task(app.drain())
    second = tasks.create_task(signals.second.wait())
    await asyncio.wait([drained, second], return_when=asyncio.FIRST_COMPLETED)
    exit_code = 0 if drained.done() else 128 + signals.number
    drained.cancel()
    second.cancel()
    return exit_code


async def _beat(reporter: Reporter, means: Means) -> None:
    while True:
        reporter.send(Beat(stats=means.metrics.stats(num_waiting=means.waiting.num_waiting)))
        await asyncio.sleep(BEAT_S)


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
