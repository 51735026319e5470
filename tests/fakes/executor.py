"""An executor without a model: every answer is the same script, one token a step, when the test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from trtdisagg.engine.progress import Pulse
from trtdisagg.engine.request import Output, Request
from trtdisagg.errors import OverloadedError
from trtdisagg.protocol.answers import FinishReason
from trtdisagg.protocol.handover import Ticket
from trtdisagg.protocol.spec import Stats


class FakeExecutor:
    """
    :param script: the tokens of every answer; behind them comes `eos`.
    :param steps_itself: computes whenever there is something to compute; otherwise the test calls `step`.
    """

    def __init__(
        self, deliver: Callable[[list[Output]], None], script: list[int], *, eos: int, steps_itself: bool = True
    ) -> None:
        self.deliver = deliver
        self.script = [*script, eos]
        self.eos = eos
        self.steps_itself = steps_itself
        self.requests: list[Request] = []
        self.running: dict[int, tuple[Request, int]] = {}
        self.cancelled: list[int] = []
        self.max_queue_size = 64
        self.error: str | None = None
        """What the next step ends every request with."""
        self.reason: str | None = None
        """Why it is not healthy."""
        self.num_held_blocks = 0
        self.num_generated = 0
        self.num_refused = 0
        self.enqueued = asyncio.Event()
        self.cancellation = asyncio.Event()

    def enqueue_request(self, request: Request) -> int:
        if len(self.running) >= self.max_queue_size:
            self.num_refused += 1
            raise OverloadedError("The queue is full")
        self.requests.append(request)
        self.running[request.id] = (request, len(request.output_token_ids))
        self.enqueued.set()
        self._go_on()
        return request.id

    def cancel_request(self, request_id: int) -> None:
        self.cancelled.append(request_id)
        self.running.pop(request_id, None)
        self.cancellation.set()

    def stats(self) -> Stats:
        return Stats(
            num_running=len(self.running),
            num_blocks=10,
            num_held_blocks=self.num_held_blocks,
            num_generation_tokens_total=self.num_generated,
        )

    def health(self) -> str | None:
        return self.reason

    def pulse(self) -> Pulse:
        return Pulse(len(self.requests), is_working=bool(self.running) or self.reason is not None)

    def step(self, num_tokens: int = 1) -> None:
        """Give each request its next tokens."""
        outputs = [self._advance(*state) for _ in range(num_tokens) for state in list(self.running.values())]
        if outputs:
            self.deliver(outputs)

    def _step_itself(self) -> None:
        self.step()
        self._go_on()

    def _go_on(self) -> None:
        if self.running and self.steps_itself:
            asyncio.get_running_loop().call_soon(self._step_itself)

    def _advance(self, request: Request, position: int) -> Output:
        if self.error:
            del self.running[request.id]
            return Output(request_id=request.id, finish_reason="error", error=self.error)
        token = self.script[position]
        self.running[request.id] = (request, position + 1)
        stops = request.sampling.stop_token_ids | (frozenset() if request.sampling.ignore_eos else {self.eos})
        reason: FinishReason | None = None
        if token in stops:
            reason = "stop"
        elif position + 1 >= request.sampling.max_tokens:
            reason = "length"
        elif request.type == "context_only":
            reason = "not_finished"
        if reason:
            del self.running[request.id]
        return Output(
            request_id=request.id,
            new_token_ids=[token],
            finish_reason=reason,
            stop_token_id=token if reason == "stop" else None,
            ticket=ticket_for(request) if reason == "not_finished" else None,
        )


def ticket_for(request: Request) -> Ticket:
    return Ticket(
        server="context-0",
        incarnation="x",
        host="127.0.0.1",
        port=1,
        request_id=request.id,
        num_tokens=len(request.prompt_token_ids),
        blocks=[0],
        lease_ms=1000,
    )
