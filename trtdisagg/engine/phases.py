"""The two phases of a request on two executors, for those who hand it over themselves.

    context executor      Output            first token, ticket  ->  context_phase_params
    generation executor   Request(type="generation_only", context_phase_params=...)  ->  all tokens, the first included

The loop is given the tokens that are there already and says only those that come behind them; here the first is put
before them again, so that one executor's outputs are the whole answer.
"""

from __future__ import annotations

import msgspec

from trtdisagg.engine.request import Output, Request
from trtdisagg.errors import RequestError


class FirstTokens:
    """The tokens that requests came with, until their first outputs say them. The caller sees to it that one thread at
    a time is in here."""

    def __init__(self) -> None:
        self._firsts: dict[int, Output] = {}

    def add(self, request_id: int, first: Output) -> None:
        """
        :param first: tokens, and logprobs where there are any.
        """
        self._firsts[request_id] = first

    def put_before(self, outputs: list[Output]) -> list[Output]:
        """The outputs, with what is missing at the beginning of each request's."""
        if not self._firsts:
            return outputs
        return [self._put_before(output) for output in outputs]

    def _put_before(self, output: Output) -> Output:
        first = self._firsts.pop(output.request_id, None)
        if first is None:
            return output
        return msgspec.structs.replace(
            output,
            new_token_ids=first.new_token_ids + output.new_token_ids,
            logprobs=first.logprobs + output.logprobs,
        )


def enter_generation(request: Request) -> tuple[Request, Output]:
    """
    :return: the request as the loop wants it, and what its first output lacks.
    :raises RequestError: when it is of another type.
    """
    params = request.context_phase_params
    assert params is not None
    if request.type != "generation_only":
        raise RequestError(f"context_phase_params belong to a generation_only request, and this one is {request.type}")
    begun = msgspec.structs.replace(
        request, context_phase_params=None, output_token_ids=params.first_token_ids, ticket=params.ticket
    )
    first = Output(request_id=request.id, new_token_ids=params.first_token_ids, logprobs=params.first_logprobs)
    return begun, first
