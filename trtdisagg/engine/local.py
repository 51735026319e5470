"""An executor within this process, its other ranks in processes beside it, for programs that use the Python API. It
knows no HTTP.

caller's thread     open_executor(options) ........................................ left
                      |                                                                |
thread "executor"   stays on its cores -> model, pool, transports -> event loop -> all of it closed
                      |                                      |
processes           the other ranks, if any                  |
threads it starts   the executor's loop, torch's and the extension's: they inherit its cores
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AsyncExitStack, closing, contextmanager, nullcontext, suppress
from typing import NamedTuple

from trtdisagg.engine.assemble import open_parts
from trtdisagg.engine.executor import Deliver, Executor
from trtdisagg.engine.gang.children import open_children
from trtdisagg.engine.options import EngineOptions, make_specs
from trtdisagg.errors import StartupError
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.text.tokenizer import Tokenizer

log = logging.getLogger(__name__)

_OPEN_TIMEOUT_S = 1800.0
"""For weights that come over a slow network file system."""
_CLOSE_TIMEOUT_S = 60.0


class Opened(NamedTuple):
    """An executor that can compute."""

    executor: Executor
    tokenizer: Tokenizer


@contextmanager
def open_executor(
    options: EngineOptions,
    *,
    deliver: Deliver | None = None,
    secret: bytes = b"",
    stage: Callable[[str], None] = lambda _: None,
) -> Iterator[Opened]:
    """Load a model and serve requests with it, until the context is left.

    :param deliver: as `Executor` wants it; None: outputs are taken with `await_responses`.
    :param secret: shared by executors that hand KV over; empty: any process of this host may ask for KV.
    :param stage: told what is going on, for people.
    :raises ConfigError: when an option has no meaning.
    :raises StartupError: when the model or something else it needs is missing.
    """
    engine = _EngineThread(make_specs(options), deliver, secret, stage)
    with closing(engine):
        yield engine.open()


class _EngineThread:
    """The event loop an engine needs, and the thread from which all its others come."""

    def __init__(
        self, specs: list[EngineSpec], deliver: Deliver | None, secret: bytes, stage: Callable[[str], None]
    ) -> None:
        self._specs = specs
        self._spec = specs[0]
        self._deliver = deliver
        self._secret = secret
        self._stage = stage
        self._opened: Future[Opened] = Future()

    def open(self) -> Opened:
        """Wait until the engine can compute."""
        self._loop = asyncio.new_event_loop()
        self._living = self._loop.create_task(self._live())
        self._thread = threading.Thread(target=self._run, name="executor", daemon=True)
        self._thread.start()
        try:
            return self._opened.result(_OPEN_TIMEOUT_S)
        except TimeoutError:
            raise StartupError(f"the model {self._spec.model} was not loaded within {_OPEN_TIMEOUT_S:.0f} s") from None

    def close(self) -> None:
        """Also while it opens."""
        with suppress(RuntimeError):  # the loop is closed: it could not open
            self._loop.call_soon_threadsafe(self._living.cancel)
        self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive():
            log.error("the executor did not end within %.0f s", _CLOSE_TIMEOUT_S)

    def _run(self) -> None:
        if self._spec.cores:
            os.sched_setaffinity(0, self._spec.cores)  # of this thread alone, and of those it starts
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._result())

    async def _result(self) -> None:
        [result] = await asyncio.gather(self._living, return_exceptions=True)
        if not self._opened.done():
            self._opened.set_exception(result or StartupError("it was closed before it could open"))
        elif not isinstance(result, asyncio.CancelledError):
            log.error("the executor ended with a fault", exc_info=result)

    async def _live(self) -> None:
        async with AsyncExitStack() as stack:
            spec = self._spec
            needed: AbstractAsyncContextManager[None] = nullcontext()
            if len(self._specs) > 1:
                children = await stack.enter_async_context(open_children(self._specs, self._secret))
                spec, needed = children.first, children.needed()
            async with needed:
                opening = open_parts(spec, self._secret, self._deliver, self._stage)
                parts = await stack.enter_async_context(opening)
            self._opened.set_result(Opened(parts.executor, parts.tokenizer))
            await asyncio.Event().wait()  # until it is cancelled
