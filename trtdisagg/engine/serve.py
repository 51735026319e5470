"""The life of an engine process: listen, load, warm up, serve, drain, end.

    Loading ... Ready  Beat  Beat  Beat ...            to the agent, over the report pipe
    503     503 | 200  200   200   200  503 (drain)    /health

The first SIGTERM (or Ctrl-C) drains: new requests get 503, those that run are answered, blocks that are held are
fetched or their lease ends. How long that may take is the agent's to say: a second SIGTERM ends the process at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from trtdisagg.engine.http.delivery import Delivery
from trtdisagg.engine.http.listen import open_socket
from trtdisagg.engine.http.routes import make_app
from trtdisagg.engine.http.running import Engine
from trtdisagg.engine.http.service import Service
from trtdisagg.engine.request import Output, Request, SamplingParams
from trtdisagg.errors import StartupError
from trtdisagg.protocol.reports import Reporter
from trtdisagg.protocol.spec import Beat, EngineSpec, Loading, Ready
from trtdisagg.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

BEAT_S = 0.5
DRAIN_POLL_S = 0.05
WARM_UP_TIMEOUT_S = 120.0
SHUTDOWN_TIMEOUT_S = 2.0
"""For answers that are cut short: to tell their clients so."""


class Loaded(NamedTuple):
    """An engine that can compute."""

    engine: Engine
    tokenizer: Tokenizer


Stage = Callable[[str], None]
Open = Callable[[EngineSpec, bytes, Delivery, Stage], AbstractAsyncContextManager[Loaded]]
"""Opens the engine of a spec for as long as its context lasts; says meanwhile at which stage it is."""


class Server:
    """One engine process, from its spec to its end."""

    def __init__(self, spec: EngineSpec, reporter: Reporter, open_engine: Open) -> None:
        self._spec = spec
        self._reporter = reporter
        self._open_engine = open_engine
        self._secret = _read_secret(spec.secret_file)
        self._port = spec.port

    async def run(self) -> int:
        """Serve until asked to end.

        :return: the exit code: 0 when all was answered, otherwise 128 + the signal.
        :raises TrtdisaggError: when it cannot start.
        """
        delivery = Delivery(asyncio.get_running_loop())
        service = Service(self._spec, delivery)
        async with self._listening(service):
            serving = asyncio.create_task(self._serve(service, delivery))
            signals = _Signals(service, serving)
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
        listener = open_socket(self._spec.host, self._spec.port, has_secret=bool(self._secret))
        self._port = listener.getsockname()[1]
        app = make_app(service, secret=self._secret, address=lambda: (self._spec.host, self._port))
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
            self._ready()
            await self._beat_until_drained(service, loaded.engine)

    def _stage(self, name: str) -> None:
        log.info("loading: %s", name)
        self._reporter.send(Loading(stage=name))

    def _ready(self) -> None:
        spec = self._spec
        log.info("%s serves %s on %s:%d", spec.name, spec.model, spec.host, self._port)
        self._reporter.send(
            Ready(
                host=spec.host,
                port=self._port,
                max_seq_len=spec.max_seq_len,
                num_blocks=spec.num_blocks,
                tokens_per_block=spec.tokens_per_block,
                dtype=spec.dtype,
            )
        )

    async def _beat_until_drained(self, service: Service, engine: Engine) -> None:
        """No beat without a sign of life of the engine's loop; nothing is said in its name."""
        loop = asyncio.get_running_loop()
        next_beat = loop.time()
        while not (service.is_draining and service.is_drained):
            if loop.time() >= next_beat:
                next_beat += BEAT_S
                if reason := engine.health():
                    log.error("%s", reason)
                else:
                    self._reporter.send(Beat(stats=service.stats()))
            await asyncio.sleep(DRAIN_POLL_S)


class _Signals:
    """What SIGTERM and SIGINT mean: first drain, then end. Before there is anything to drain, the first one ends."""

    def __init__(self, service: Service, serving: asyncio.Task[None]) -> None:
        self.cut_short = False
        self.number = 0
        self._service = service
        self._serving = serving
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._asked_to_end, number)

    def _asked_to_end(self, number: int) -> None:
        self.number = number
        if self._service.is_open and not self._service.is_draining:
            log.info("draining")
            self._service.drain()
        else:
            self.cut_short = True
            self._serving.cancel()


async def _warm_up(loaded: Loaded, delivery: Delivery) -> None:
    """Generate: a token of the context phase and one of generation.

    :raises StartupError: when none comes.
    """
    prompt = [loaded.tokenizer.bos_token_id or 0]
    request = Request(id=0, prompt_token_ids=prompt, sampling=SamplingParams(max_tokens=2, min_tokens=2, temperature=0))
    outputs: list[Output] = []
    with delivery.mailbox(request.id) as mailbox:
        loaded.engine.enqueue_request(request)
        try:
            async with asyncio.timeout(WARM_UP_TIMEOUT_S):
                while not (outputs and outputs[-1].finish_reason):
                    outputs += await mailbox.take()
        except TimeoutError as e:
            raise StartupError(f"no token was generated within {WARM_UP_TIMEOUT_S:.0f} s") from e
    if outputs[-1].finish_reason != "length":
        why = outputs[-1].error or str(outputs[-1].finish_reason)
        raise StartupError(f"no token could be generated: {why.splitlines()[0]}")


def _read_secret(path: str | None) -> bytes:
    """
    :raises StartupError: when it cannot be read, or nothing is in it.
    """
    if path is None:
        return b""
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as e:
        raise StartupError(f"the secret file {path} cannot be read: {e.strerror or e}") from e
    if not secret:
        raise StartupError(f"the secret file {path} is empty")
    return secret
