"""The life of an engine process: listen, load, warm up, serve, drain, end.

    Loading ... Ready ...   SwitchRole -> Ready   Meet -> Linked     over pipes, from and to the agent
    Beat  Beat   Beat  Beat  Beat  Beat  Beat  Beat  Beat  Beat
    503     503 | 200  200   200   200   200   200   503 (drain)      /health

The first SIGTERM (or Ctrl-C) drains: new requests get 503, those that run are answered, blocks that are held are
fetched or their lease ends. How long that may take is the agent's to say: a second SIGTERM ends the process at once,
and open streams with an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

from aiohttp import web

from trtdisagg.engine.beats import Beats
from trtdisagg.engine.ending import Signals, drained
from trtdisagg.engine.http.canary import generate
from trtdisagg.engine.http.delivery import Delivery
from trtdisagg.engine.http.listen import open_socket
from trtdisagg.engine.http.routes import make_app
from trtdisagg.engine.http.running import Engine
from trtdisagg.engine.http.service import Service
from trtdisagg.engine.meetings import KvExchange, Meetings
from trtdisagg.engine.secret import read_secret
from trtdisagg.engine.watch import saying, turning
from trtdisagg.errors import StartupError, UnavailableError
from trtdisagg.protocol.commands import Commands, Gone, Meet, SwitchRole
from trtdisagg.protocol.reports import Loading, Ready, Reporter
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

WARM_UP_TIMEOUT_S = 120.0
SHUTDOWN_TIMEOUT_S = 2.0
"""For answers that are cut short: to tell their clients so."""


class Loaded(NamedTuple):
    """An engine that can compute."""

    engine: Engine
    tokenizer: Tokenizer
    exchange: KvExchange | None = None
    """None: it hands nothing over."""


Stage = Callable[[str], None]
Open = Callable[[EngineSpec, bytes, Delivery, Stage], AbstractAsyncContextManager[Loaded]]
"""Opens the engine of a spec for as long as its context lasts; says meanwhile at which stage it is."""


class Server:
    """One engine process, from its spec to its end."""

    def __init__(self, spec: EngineSpec, reporter: Reporter, open_engine: Open) -> None:
        self._spec = spec
        self._reporter = reporter
        self._open_engine = open_engine
        self._secret = read_secret(spec.secret_file)
        self._port = spec.port
        self._kv_address = ("", 0)
        self._meetings = Meetings(reporter.send)

    async def run(self) -> int:
        """Serve until asked to end.

        :return: the exit code: 0 when all was answered, otherwise 128 + the signal.
        :raises TrtdisaggError: when it cannot start.
        """
        delivery = Delivery(asyncio.get_running_loop())
        service = Service(self._spec, delivery)
        pulses = (service.engine_pulse, service.http_pulse)
        with Beats(self._reporter, service.stats, pulses), self._obeying(service):
            async with self._listening(service), turning(service.turns):
                serving = asyncio.create_task(self._serve(service, delivery))
                signals = Signals(service, serving)
                try:
                    await serving
                except asyncio.CancelledError:
                    if not signals.cut_short:
                        raise
                    return 128 + signals.number
        return 0

    @contextlib.asynccontextmanager
    async def _listening(self, service: Service) -> AsyncIterator[None]:
        """Answer requests, if only to say that there is no engine yet."""
        host, secret = self._spec.http_host, self._secret if self._spec.clients_know_secret else b""
        listener = open_socket(host, self._spec.port, has_secret=bool(secret))
        self._port = listener.getsockname()[1]
        app = make_app(service, secret=secret, address=lambda: (host, self._port))
        runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_TIMEOUT_S, handle_signals=False
        )
        await runner.setup()
        try:
            await web.SockSite(runner, listener).start()
            yield
        finally:
            await runner.cleanup()

    async def _serve(self, service: Service, delivery: Delivery) -> None:
        async with self._open_engine(self._spec, self._secret, delivery, self._stage) as loaded:
            self._stage("warm-up")
            await _warm_up(loaded, delivery)
            service.open(loaded.engine, loaded.tokenizer, self._secret)
            if loaded.exchange is not None:
                self._kv_address = (loaded.exchange.host, loaded.exchange.port)
            self._ready(service)
            async with self._meetings.open(loaded.exchange), saying(loaded.engine.health):
                await drained(service)

    def _stage(self, name: str) -> None:
        log.info("loading: %s", name)
        self._reporter.send(Loading(stage=name))

    def _ready(self, service: Service) -> None:
        spec = self._spec
        log.info("%s serves %s on %s:%d", spec.name, spec.model, spec.http_host, self._port)
        self._reporter.send(
            Ready(
                host=spec.http_host,
                port=self._port,
                max_seq_len=spec.max_seq_len,
                num_blocks=spec.num_blocks_of_all,
                tokens_per_block=spec.tokens_per_block,
                max_batch_size=spec.max_batch_size_of_all,
                dtype=spec.dtype,
                role=service.role,
                kv_host=self._kv_address[0],
                kv_port=self._kv_address[1],
            )
        )

    @contextlib.contextmanager
    def _obeying(self, service: Service) -> Iterator[None]:
        """Do what the agent says."""
        loop = asyncio.get_running_loop()
        with contextlib.closing(Commands(self._spec.command_fd)) as commands:
            if (fd := commands.fd) is None:
                yield
                return
            loop.add_reader(fd, self._obey, service, commands, fd)
            try:
                yield
            finally:
                loop.remove_reader(fd)

    def _obey(self, service: Service, commands: Commands, fd: int) -> None:
        for command in commands.receive():
            match command:
                case SwitchRole(role=role):
                    log.info("the role is %s now, and was %s", role, service.role)
                    service.role = role
                    if service.is_open and not service.is_draining:
                        self._ready(service)
                case Meet(peer=peer):
                    self._meetings.meet(peer)
                case Gone(incarnation=incarnation):
                    self._meetings.gone(incarnation)
        if commands.is_over:
            asyncio.get_running_loop().remove_reader(fd)


async def _warm_up(loaded: Loaded, delivery: Delivery) -> None:
    """
    :raises StartupError: when no token comes.
    """
    try:
        async with asyncio.timeout(WARM_UP_TIMEOUT_S):
            await generate(loaded.engine, loaded.tokenizer, delivery, num_tokens=2)
    except TimeoutError as e:
        raise StartupError(f"no token was generated within {WARM_UP_TIMEOUT_S:.0f} s") from e
    except UnavailableError as e:
        raise StartupError(e.message) from e
