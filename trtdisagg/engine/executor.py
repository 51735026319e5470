"""The engine's public Python API: requests in from any thread, outputs out.

The loop runs on a thread of its own; this file passes messages to it and waits for what comes back. It knows no
model, no HTTP and no text.

    with Executor(runner=runner, limits=limits, eos_token_ids=frozenset({2})) as executor:
        executor.enqueue_request(Request(id=1, prompt_token_ids=[5, 6], sampling=SamplingParams(max_tokens=8)))
        outputs = executor.await_responses(1, timeout_s=10)
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType

from trtdisagg.cache.events import BlockListener
from trtdisagg.engine.ahead import AheadRunner
from trtdisagg.engine.core import EngineCore
from trtdisagg.engine.interfaces import Guide, Guides, Handover, Runner
from trtdisagg.engine.limits import Limits
from trtdisagg.engine.messages import Add, Broken, Cancel, Listen, Shutdown
from trtdisagg.engine.phases import FirstTokens, enter_generation
from trtdisagg.engine.progress import Progress, Pulse
from trtdisagg.engine.request import Output, Request
from trtdisagg.engine.responses import Responses
from trtdisagg.engine.sampling import Sampler
from trtdisagg.errors import OverloadedError, RequestError, UnavailableError
from trtdisagg.protocol.kv_events import KvEvent
from trtdisagg.protocol.stats import Stats

log = logging.getLogger(__name__)

Deliver = Callable[[list[Output]], None]

STALL_TIMEOUT_S = 2.0
"""Long for the smallest part of a step that counts as progress: one product of a layer, for some of its rows."""


class Executor:
    """One engine: a model runner, its blocks and the loop that serves requests with them.

    All methods may be called from any thread.

    :param runner: computes a step; called from the engine thread only.
    :param limits: sizes of batch, queue and KV cache.
    :param eos_token_ids: the model's own end-of-sequence tokens.
    :param handover: moves KV between servers; None: disaggregated requests are refused.
    :param deliver: called from the engine thread, once a step, with all of its outputs. Without it, outputs are kept
        for `await_responses`.
    :param stall_timeout_s: after this long without progress, though there is work, `health` says that the engine hangs.
    :param guides: makes guides; None: requests with one are refused.
    :param progress: the runner's, if it has one: then a step that takes longer than this is seen to go on.
    :param ahead: the runner again, where steps may be launched before the tokens of the last are known.
    :param sampler: with the runner's threads; None: one without threads of its own.
    """

    def __init__(
        self,
        *,
        runner: Runner,
        limits: Limits,
        eos_token_ids: frozenset[int] = frozenset(),
        handover: Handover | None = None,
        deliver: Deliver | None = None,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        progress: Progress | None = None,
        guides: Guides | None = None,
        sampler: Sampler | None = None,
        ahead: AheadRunner | None = None,
    ) -> None:
        self._guides = guides
        self._limits = limits
        self._has_handover = handover is not None
        self._responses = Responses()
        self._deliver_to = deliver or self._responses.put
        self._stall_timeout_s = stall_timeout_s
        self._core = EngineCore(
            runner=runner,
            limits=limits,
            eos_token_ids=eos_token_ids,
            handover=handover,
            deliver=self._deliver,
            progress=progress,
            sampler=sampler,
            ahead=ahead,
        )
        self._thread = threading.Thread(target=self._core.run, name="engine", daemon=True)
        self._lock = threading.Lock()
        self._num_left: dict[int, int] = {}
        """By request: choices that have not ended."""
        self._first_tokens = FirstTokens()
        self._is_closed = False

    def start(self) -> None:
        """Start the engine loop."""
        self._thread.start()

    def __enter__(self) -> Executor:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.shutdown()

    def check(self, request: Request) -> None:
        """Refuse what this engine can never serve, before it is enqueued.

        :raises ContextLengthError: with the numbers, when prompt and output are longer than the server can hold.
        :raises RequestError: when the request is wrong in itself, or disaggregated serving is not enabled.
        """
        if (request.type == "context_only" or request.ticket is not None) and not self._has_handover:
            raise RequestError(
                "Disaggregated serving is not enabled, please check the configuration: "
                "set cache_transceiver_config.backend",
                param="disaggregated_params",
            )
        self._limits.check(request)

    def enqueue_request(self, request: Request) -> int:
        """Hand a request to the engine; its outputs carry its id, and the last one a finish reason.

        :raises RequestError: as `check`, or when a request with this id has not ended yet, or its guide means nothing.
        :raises OverloadedError: when the queue is full.
        :raises UnavailableError: when the engine is shut down.
        """
        first, arrived_s = None, time.monotonic()
        if request.context_phase_params is not None:
            request, first = enter_generation(request)
        self.check(request)
        num_waiting = self._core.stats.num_waiting + self._core.inbox.qsize()
        if num_waiting >= self._limits.max_queue_size:
            raise OverloadedError(f"{num_waiting} requests wait already (max_queue_size)")
        guides = [self._open_guide(request) for _ in range(request.num_choices)] if request.guide else []
        with self._lock:
            if self._is_closed:
                raise UnavailableError("the engine is shut down")
            if request.id in self._num_left:
                raise RequestError(f"A request with id {request.id} has not ended yet")
            self._num_left[request.id] = request.num_choices
            if first is not None:
                self._first_tokens.add(request.id, first)
            self._core.inbox.put(Add(request, guides, arrived_s))
        return request.id

    def await_responses(self, request_id: int | None = None, *, timeout_s: float) -> list[Output]:
        """Wait until there are outputs and take them, in order.

        :param request_id: only those of this request; None: of all.
        :return: empty when there were none in time.
        """
        return self._responses.take(request_id, timeout_s)

    def cancel_request(self, request_id: int, choice: int | None = None) -> None:
        """End a request: its last output says `cancelled`. One that has ended has none more.

        :param choice: only this one of its choices; None: all.

        Blocks that it holds for another server are given back: not to be called once somebody has its ticket.
        """
        self._core.inbox.put(Cancel(request_id, choice))

    def give_up(self, reason: str) -> None:
        """End all requests, and those to come, with an error: nothing can be computed any more."""
        self._core.inbox.put(Broken(reason))

    def shutdown(self, timeout_s: float = 10.0) -> None:
        """Cancel all requests and end the loop; fetches that still write are waited for until the deadline."""
        with self._lock:
            self._is_closed = True
        if self._thread.ident is None:
            return
        self._core.inbox.put(Shutdown(timeout_s))
        self._thread.join(timeout_s + 5)
        if self._thread.is_alive():
            log.error("the engine loop did not end within %.0f s", timeout_s + 5)

    def stats(self) -> Stats:
        """The counters; bytes and seconds of transfers are the transceiver's to add."""
        return self._core.stats

    def take_kv_events(self) -> list[KvEvent]:
        """What happened to KV blocks since the last time, the oldest first; as far as `event_buffer_max_size` goes."""
        return self._core.take_kv_events()

    @property
    def root_model(self) -> str:
        """What hashes of blocks begin with, beside a request's salt (`text.block_hash.root_hash`)."""
        return self._limits.model

    def listen(self, listener: BlockListener) -> None:
        """Tell it what can be found in the blocks, and then what changes: between steps, on the engine's thread."""
        self._core.inbox.put(Listen(listener))

    def unlisten(self, listener: BlockListener) -> None:
        """Tell it no more."""
        self._core.inbox.put(Listen(listener, is_over=True))

    def health(self) -> str | None:
        """None while the engine can serve and its loop makes progress; otherwise why not."""
        if reason := self._end():
            return reason
        if not self._core.is_working:
            return None
        silence_s = self._core.progress.silence_s
        return f"the engine made no progress for {silence_s:.0f} s" if silence_s > self._stall_timeout_s else None

    def pulse(self) -> Pulse:
        """How far the loop has come; one that has ended counts as stuck."""
        if self._end():
            return Pulse(0, is_working=True)
        return Pulse(self._core.progress.num_ticks, self._core.is_working or not self._core.inbox.empty())

    def _end(self) -> str | None:
        """Why nothing will be computed any more."""
        if self._core.broken:
            return f"the engine is broken: {self._core.broken}"
        return None if self._thread.is_alive() else "the engine loop does not run"

    def _deliver(self, outputs: list[Output]) -> None:
        with self._lock:
            for output in outputs:
                if output.finish_reason:
                    self._count_end(output.request_id)
            outputs = self._first_tokens.put_before(outputs)
        self._deliver_to(outputs)

    def _count_end(self, request_id: int) -> None:
        """One of its choices has ended."""
        self._num_left[request_id] -= 1
        if not self._num_left[request_id]:
            del self._num_left[request_id]

    def _open_guide(self, request: Request) -> Guide:
        """A guide behind the tokens that came with the request. On the caller's thread, since it may take a while."""
        assert request.guide is not None
        if self._guides is None:
            raise RequestError("This server has no guided decoding", param="response_format")
        guide = self._guides.open(request.guide)
        for token in request.output_token_ids:
            try:
                guide.accept(token)
            except ValueError as e:
                raise RequestError(f"Token {token} of the output so far does not follow the guide: {e}") from e
        return guide
