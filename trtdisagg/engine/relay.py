"""A request's way over two executors: which leg it is on, and what of it the caller is told.

    caller                context executor                        generation executor
    enqueue(7)  ------->  leg 0: context_only
        token 1  <------  first token, ticket  --------------->   leg 1: generation_only
        token 2, ...  <----------------------------------------   all other tokens

Legs have ids of their own, the caller sees the request's. The first token does not wait for the KV to move. Knows no
models and no devices.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import count

import msgspec

from trtdisagg.engine.executor import Deliver
from trtdisagg.engine.request import Output, Request
from trtdisagg.engine.rotation import Member, Rotation
from trtdisagg.errors import RequestError, TrtdisaggError, UnavailableError
from trtdisagg.protocol.answers import FinishReason


class _Errand(msgspec.Struct):
    """A request on its way."""

    request: Request
    leg_id: int
    member: Member
    end_by: float | None
    is_cancelled: bool = False


class Relay:
    """
    :param deliver: called from the executors' threads; one request's outputs come in order.
    :param clock: monotonic, in seconds.
    """

    def __init__(self, deliver: Deliver, clock: Callable[[], float] = time.monotonic) -> None:
        self.context = Rotation()
        self.generation = Rotation()
        self._deliver = deliver
        self._clock = clock
        self._lock = threading.Lock()
        self._leg_ids = count()
        self._errands: dict[int, _Errand] = {}
        """By the request's id."""
        self._request_ids: dict[int, int] = {}
        """By the leg's."""
        self._is_closed = False

    # --- from the caller's threads ----------------------------------------------------------------------------------

    def enqueue(self, request: Request) -> None:
        """
        :raises RequestError: when it can never be served, has a phase behind it, or its id is in use.
        :raises OverloadedError: when the queues of the context executors are full.
        :raises UnavailableError: when none of them is healthy, or this is closed.
        """
        if request.type != "context_and_generation":
            raise RequestError(f"both phases of a request are made here, and this one is {request.type}")
        self.generation.members[0].executor.check(request)
        with self._lock:
            if self._is_closed:
                raise UnavailableError("the orchestrator is shut down")
            if request.id in self._errands:
                raise RequestError(f"A request with id {request.id} has not ended yet")
            leg = msgspec.structs.replace(request, id=next(self._leg_ids), type="context_only")
            member = self.context.enqueue(leg)
            end_by = None if request.timeout_s is None else self._clock() + request.timeout_s
            self._errands[request.id] = _Errand(request, leg.id, member, end_by)
            self._request_ids[leg.id] = request.id

    def cancel(self, request_id: int) -> None:
        """End a request in whichever phase it is."""
        with self._lock:
            if errand := self._errands.get(request_id):
                errand.is_cancelled = True
                errand.member.executor.cancel_request(errand.leg_id)

    def close(self) -> None:
        """Take no more requests, and let none enter its second phase."""
        with self._lock:
            self._is_closed = True

    # --- from the executors' threads --------------------------------------------------------------------------------

    def on_context(self, outputs: list[Output]) -> None:
        self._tell([o for o in outputs if o.finish_reason != "not_finished"])
        for output in outputs:
            if output.finish_reason == "not_finished":
                self._go_on(output)

    def on_generation(self, outputs: list[Output]) -> None:
        self._tell(outputs)

    def _tell(self, outputs: list[Output]) -> None:
        with self._lock:
            seen = [self._seen(output) for output in outputs]
        if seen:
            self._deliver(seen)

    def _seen(self, output: Output) -> Output:
        """As the caller sees it; the errand is over with its last one."""
        request_id = self._request_ids[output.request_id]
        error = output.error and f"{self._errands[request_id].member.name}: {output.error}"
        if output.finish_reason:
            self._forget(request_id)
        return msgspec.structs.replace(output, request_id=request_id, error=error)

    def _go_on(self, output: Output) -> None:
        with self._lock:
            request_id = self._request_ids[output.request_id]
        first = msgspec.structs.replace(output, request_id=request_id, finish_reason=None, ticket=None)
        try:
            self._deliver([first])  # before anybody computes the second
        finally:
            with self._lock:
                last = self._enter_generation(self._errands[request_id], output)
                if last is not None:
                    self._forget(request_id)
            if last is not None:
                self._deliver([last])

    def _enter_generation(self, errand: _Errand, output: Output) -> Output | None:
        """
        :return: the last output of a request that ends here; its KV is given back.
        """
        context = errand.member
        try:
            if errand.is_cancelled or self._is_closed:
                context.executor.cancel_request(errand.leg_id)
                return _last(errand, "cancelled")
            leg = self._generation_leg(errand, output)
            errand.member = self.generation.enqueue(leg)
        except TrtdisaggError as e:
            context.executor.cancel_request(errand.leg_id)
            return _last(errand, "error", e.message)
        del self._request_ids[errand.leg_id]
        errand.leg_id = leg.id
        self._request_ids[leg.id] = errand.request.id
        return None

    def _generation_leg(self, errand: _Errand, output: Output) -> Request:
        sampling = msgspec.structs.replace(errand.request.sampling, num_prompt_logprobs=None)  # said already
        return msgspec.structs.replace(
            errand.request,
            id=next(self._leg_ids),
            type="generation_only",
            output_token_ids=output.new_token_ids,
            ticket=output.ticket,
            sampling=sampling,
            wants_context_logits=False,
            timeout_s=None if errand.end_by is None else max(errand.end_by - self._clock(), 0.0),
        )

    def _forget(self, request_id: int) -> None:
        del self._request_ids[self._errands.pop(request_id).leg_id]


def _last(errand: _Errand, reason: FinishReason, error: str | None = None) -> Output:
    return Output(request_id=errand.request.id, finish_reason=reason, error=error)
