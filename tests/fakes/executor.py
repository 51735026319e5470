"""An executor without a model: every answer is the same script, one token a step, when the test says so.

Choice k leaves out the first k tokens of the script. How probable a token is follows from it and its position alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import torch

from trtdisagg.cache.events import BlockEvents, BlockListener
from trtdisagg.engine.progress import Pulse
from trtdisagg.engine.record import Record
from trtdisagg.engine.request import Output, Request, TokenLogprob
from trtdisagg.errors import OverloadedError
from trtdisagg.protocol.answers import FinishReason
from trtdisagg.protocol.handover import Ticket
from trtdisagg.protocol.kv_events import KvEvent
from trtdisagg.protocol.stats import Stats


class FakeExecutor:
    """
    :param script: the tokens of every answer; behind them comes `eos`.
    :param steps_itself: computes whenever there is something to compute; otherwise the test calls `step`.
    """

    def __init__(
        self, deliver: Callable[[list[Output]], None], script: list[int], *, eos: int, steps_itself: bool = True
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.deliver = deliver
        self.script = [*script, eos]
        self.eos = eos
        self.steps_itself = steps_itself
        self.requests: list[Request] = []
        self.running: dict[tuple[int, int], tuple[Request, int]] = {}
        """By request and choice: how many tokens are computed."""
        self.cancelled: list[int] = []
        self.cancelled_choices: list[tuple[int, int]] = []
        self.max_queue_size = 64
        self.error: str | None = None
        """What the next step ends every request with."""
        self.end_with: FinishReason | None = None
        """Likewise, another reason."""
        self.reason: str | None = None
        """Why it is not healthy."""
        self.kv_events: list[KvEvent] = []
        self.blocks = BlockEvents(0)
        self.num_listeners = 0
        self.left = asyncio.Event()
        self.released: list[Ticket] = []
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
        for choice in range(request.num_choices):
            self.running[request.id, choice] = (request, len(request.output_token_ids))
        self._loop.call_soon_threadsafe(self.enqueued.set)
        self._go_on()
        return request.id

    def cancel_request(self, request_id: int, choice: int | None = None) -> None:
        if choice is None:
            self.cancelled.append(request_id)
        else:
            self.cancelled_choices.append((request_id, choice))
        for key in list(self.running):
            if key[0] == request_id and choice in (None, key[1]):
                del self.running[key]
        self.cancellation.set()

    def stats(self) -> Stats:
        return Stats(
            num_running=len(self.running),
            num_blocks=10,
            num_reused_blocks_total=3,
            num_missed_blocks_total=1,
            num_held_blocks=self.num_held_blocks,
            num_generation_tokens_total=self.num_generated,
        )

    def release(self, ticket: Ticket) -> None:
        self.released.append(ticket)

    def take_kv_events(self) -> list[KvEvent]:
        taken, self.kv_events = self.kv_events, []
        return taken

    root_model = "weights"

    def listen(self, listener: BlockListener) -> None:
        self.blocks.listen(listener)
        self.num_listeners += 1

    def unlisten(self, listener: BlockListener) -> None:
        self.blocks.forget(listener)
        self.num_listeners -= 1
        self.left.set()

    def health(self) -> str | None:
        return self.reason

    def pulse(self) -> Pulse:
        return Pulse(len(self.requests), is_working=bool(self.running) or self.reason is not None)

    def step(self, num_tokens: int = 1) -> None:
        """Give each request its next tokens."""
        outputs = [self._advance(*key, *self.running[key]) for _ in range(num_tokens) for key in list(self.running)]
        if outputs:
            self.deliver(outputs)

    def _step_itself(self) -> None:
        self.step()
        self._go_on()

    def _go_on(self) -> None:
        if self.running and self.steps_itself:
            self._loop.call_soon_threadsafe(self._step_itself)

    def _advance(self, request_id: int, choice: int, request: Request, position: int) -> Output:
        if self.error or self.end_with:
            del self.running[request_id, choice]
            return Output(
                request_id=request_id, choice=choice, finish_reason=self.end_with or "error", error=self.error
            )
        token = self.script[min(choice + position, len(self.script) - 1)]
        self.running[request_id, choice] = (request, position + 1)
        stops = request.sampling.stop_token_ids | (frozenset() if request.sampling.ignore_eos else {self.eos})
        reason: FinishReason | None = None
        if token in stops:
            reason = "stop"
        elif position + 1 >= request.sampling.max_tokens:
            reason = "length"
        elif request.type == "context_only":
            reason = "not_finished"
        if reason:
            del self.running[request_id, choice]
        return Output(
            request_id=request_id,
            choice=choice,
            new_token_ids=[token],
            **_said_of(request, choice, position, token),
            finish_reason=reason,
            stop_token_id=token if reason == "stop" else None,
            ticket=ticket_for(request) if reason == "not_finished" else None,
        )


def _said_of(request: Request, choice: int, position: int, token: int) -> dict[str, Any]:
    """What the output says beside the token."""
    said: dict[str, Any] = {"num_cached_tokens": 1}
    if not position:
        said["record"] = Record(time.monotonic, arrived_s=1.0, scheduled_s=2.0, num_blocks=5, num_reused_blocks=2)
    sampling, is_first = request.sampling, position == 0 and choice == 0
    if sampling.num_logprobs is not None:
        said["logprobs"] = [logprob_of(token, position, sampling.num_logprobs)]
    if is_first and sampling.num_prompt_logprobs is not None:
        prompt = enumerate(request.prompt_token_ids)
        said["prompt_logprobs"] = [logprob_of(t, i, sampling.num_prompt_logprobs) for i, t in prompt][1:]
    if is_first and request.wants_context_logits:
        said["context_logits"] = torch.tensor(request.prompt_token_ids, dtype=torch.float32)[:, None].expand(-1, 3)
    if request.wants_generation_logits:
        said["generation_logits"] = torch.full((1, 3), float(token))
    return said


def logprob_of(token: int, position: int, num: int) -> TokenLogprob:
    """The token itself is the second best of the alternatives."""
    top = [(token + 1, -0.125), (token, -(1 + position / 4)), *((token + i, -float(i + 9)) for i in range(2, 20))]
    return TokenLogprob(token, -(1 + position / 4), top[:num])


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
