"""Talks to executors of the Python API as a program would."""

from __future__ import annotations

from typing import Protocol

from trtdisagg.api import Output, Request, SamplingParams
from trtdisagg.protocol.handover import RequestType

LONG_S = 30.0


class TakesRequests(Protocol):
    def enqueue_request(self, request: Request) -> int: ...
    def await_responses(self, request_id: int | None = None, *, timeout_s: float) -> list[Output]: ...


def greedy(
    request_id: int, prompt: list[int], *, max_tokens: int = 12, kind: RequestType = "context_and_generation"
) -> Request:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
    return Request(id=request_id, type=kind, prompt_token_ids=prompt, sampling=sampling)


def all_of(executor: TakesRequests, request_id: int) -> list[Output]:
    """Everything a request is answered with."""
    outputs: list[Output] = []
    while not (outputs and outputs[-1].finish_reason):
        new = executor.await_responses(request_id, timeout_s=LONG_S)
        assert new, "no output in time"
        outputs += new
    return outputs


def tokens_of(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.new_token_ids]


def answer(executor: TakesRequests, request: Request) -> list[int]:
    executor.enqueue_request(request)
    return tokens_of(all_of(executor, request.id))
