"""What the caller of a request is told: its tokens, and how it ended.

It knows what an output says, not when one is due (`lifecycle`), nor who takes it.
"""

from __future__ import annotations

import msgspec
from torch import Tensor

from trtdisagg.engine.counters import Counters
from trtdisagg.engine.request import Output, Request, TokenLogprob
from trtdisagg.engine.sequence import Sequence
from trtdisagg.protocol.answers import FinishReason
from trtdisagg.protocol.handover import Ticket


class Outputs:
    """Those that nobody has taken yet, in order.

    :param counters: of the engine, where failures are counted.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._outputs: list[Output] = []

    def take(self) -> list[Output]:
        outputs, self._outputs = self._outputs, []
        return outputs

    def refused(self, request: Request, error: str) -> None:
        """It has not begun."""
        self._counters.num_failed_total += 1
        for choice in range(request.num_choices):
            self._outputs.append(Output(request_id=request.id, choice=choice, finish_reason="error", error=error))

    def gained(self, gain: Output) -> None:
        """A token, not the last."""
        self._outputs.append(gain)

    def held(self, gain: Output, ticket: Ticket) -> None:
        """The only token of a context phase, and where its KV is."""
        self._outputs.append(msgspec.structs.replace(gain, finish_reason="not_finished", ticket=ticket))

    def ended(
        self,
        sequence: Sequence,
        reason: FinishReason,
        gain: Output | None = None,
        error: str | None = None,
        *,
        is_own_fault: bool = False,
    ) -> None:
        """The end of a choice, with its last token where one came of it."""
        self._counters.num_failed_total += reason == "error"
        last = gain or Output(request_id=sequence.id, choice=sequence.choice)
        stop = sequence.tokens[-1] if reason == "stop" and sequence.ends_with_stop else None
        self._outputs.append(
            msgspec.structs.replace(
                last, finish_reason=reason, stop_token_id=stop, error=error, is_own_fault=is_own_fault
            )
        )


def gain_of(sequence: Sequence, token: int, logprob: TokenLogprob | None, logits: Tensor, row: int) -> Output:
    """One more token.

    :param row: of the logits, what it was drawn from. To take it out costs more than all the rest.
    """
    gain = Output(
        request_id=sequence.id,
        choice=sequence.choice,
        new_token_ids=[token],
        logprobs=[] if logprob is None else [logprob],
        generation_logits=_on_cpu(logits[row : row + 1]) if sequence.request.wants_generation_logits else None,
    )
    return gain if sequence.has_begun else _with_prompt(sequence, gain)


def are_numbers(logits: Tensor) -> bool:
    """Whether the model is not to blame when no token could be drawn from a row of logits."""
    return not bool(logits.isnan().any()) and bool(logits.isfinite().any())


def _with_prompt(sequence: Sequence, gain: Output) -> Output:
    """The first output of a choice says what was found of its prompt, and what was wanted of it."""
    sequence.has_begun = True
    gain = msgspec.structs.replace(gain, num_cached_tokens=sequence.num_cached or 0, record=sequence.record)
    readings, sequence.readings = sequence.readings, None
    if readings is None:
        return gain
    return msgspec.structs.replace(gain, prompt_logprobs=readings.logprobs, context_logits=readings.logits)


def _on_cpu(logits: Tensor) -> Tensor:
    return logits.to("cpu", copy=True)
