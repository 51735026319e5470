"""Several context and generation executors in one process, used as if they were one.

    with DisaggOrchestrator(options, context_device_ids=[[0]], generation_device_ids=[[1]]) as orchestrator:
        orchestrator.enqueue_request(Request(id=1, prompt_token_ids=[5, 6], sampling=SamplingParams(max_tokens=8)))
        outputs = orchestrator.await_responses(1, timeout_s=10)

Opens and closes the executors; what becomes of a request is `relay`'s to know.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from trtdisagg.engine.executor import Deliver
from trtdisagg.engine.local import Opened, open_executor
from trtdisagg.engine.options import EngineOptions
from trtdisagg.engine.relay import Relay
from trtdisagg.engine.request import Output, Request
from trtdisagg.engine.responses import Responses
from trtdisagg.engine.rotation import Member, Rotation
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.spec import Transport
from trtdisagg.text.tokenizer import Tokenizer

Open = Callable[..., AbstractContextManager[Opened]]
DeviceIds = Sequence[Sequence[int]]


class DisaggOrchestrator:
    """A context manager: executors take turns, and one that is not healthy is passed over.

    :param options: of each executor.
    :param context_device_ids: the devices of each context executor: the index of one CUDA device, or CPU cores.
    :param generation_device_ids: likewise; no device may be named twice.
    :param deliver: as `Executor` wants it, but called from several threads. Without it, outputs are kept for
        `await_responses`.
    :param open_executor: as `local.open_executor`.
    """

    tokenizer: Tokenizer

    def __init__(
        self,
        options: EngineOptions,
        *,
        context_device_ids: DeviceIds,
        generation_device_ids: DeviceIds,
        deliver: Deliver | None = None,
        open_executor: Open = open_executor,
    ) -> None:
        self._options = options
        self._context_device_ids = context_device_ids
        self._generation_device_ids = generation_device_ids
        self._open_executor = open_executor
        self._responses = Responses()
        self._relay = Relay(deliver or self._responses.put)

    def __enter__(self) -> Self:
        """
        :raises ConfigError: when a device is named twice, or a phase has no executor.
        :raises StartupError: when an executor cannot be opened.
        """
        relay = self._relay
        context = _Phase("context", self._context_device_ids, relay.context, relay.on_context)
        generation = _Phase("generation", self._generation_device_ids, relay.generation, relay.on_generation)
        _check(context, generation, self._options.device)
        secret = secrets.token_bytes(32)
        with ExitStack() as stack:
            for phase in (context, generation):  # closed in reverse: generation reads the KV that context holds
                self._open(phase, secret, stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown()

    def enqueue_request(self, request: Request) -> int:
        """Hand a request over; its outputs carry its id, and the last one a finish reason.

        :raises RequestError: when it can never be served, has a phase behind it, or its id is in use.
        :raises OverloadedError: when the queues of the context executors are full.
        :raises UnavailableError: when none of them is healthy, or this is shut down.
        """
        self._relay.enqueue(request)
        return request.id

    def await_responses(self, request_id: int | None = None, *, timeout_s: float) -> list[Output]:
        """As `Executor.await_responses`."""
        return self._responses.take(request_id, timeout_s)

    def cancel_request(self, request_id: int) -> None:
        """End a request in whichever phase it is: its last output says `cancelled`."""
        self._relay.cancel(request_id)

    def shutdown(self) -> None:
        """Cancel all requests and close the executors."""
        self._relay.close()
        self._stack.close()

    def _open(self, phase: _Phase, secret: bytes, stack: ExitStack) -> None:
        transports: list[Transport] = self._options.transports or ["local" if self._options.device == "cpu" else "nixl"]
        for index, ids in enumerate(phase.device_ids):
            options = msgspec.structs.replace(self._options, device_ids=list(ids), transports=transports)
            opened = stack.enter_context(self._open_executor(options, deliver=phase.deliver, secret=secret))
            phase.rotation.members.append(Member(f"{phase.name} executor {index}", opened.executor))
            self.tokenizer = opened.tokenizer


class _Phase(NamedTuple):
    name: str
    device_ids: DeviceIds
    rotation: Rotation
    deliver: Deliver


def _check(context: _Phase, generation: _Phase, device: str) -> None:
    for phase in (context, generation):
        if not phase.device_ids:
            raise ConfigError(f"{phase.name}_device_ids is empty: each phase needs an executor")
    lists = [set(ids) for phase in (context, generation) for ids in phase.device_ids]
    num_uses = Counter(i for ids in lists for i in ids)
    if shared := sorted(i for i, n in num_uses.items() if n > 1):
        raise ConfigError(f"device {shared[0]} is named for {num_uses[shared[0]]} executors; each needs its own")
    if device == "cpu" and len({len(ids) for ids in lists}) > 1:
        # torch has one number of threads in a process
        raise ConfigError("on a CPU every executor needs as many cores as the others")
