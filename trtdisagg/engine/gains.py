"""What a step gave a sequence, as the output that tells it."""

from __future__ import annotations

import msgspec
from torch import Tensor

from trtdisagg.engine.request import Output, TokenLogprob
from trtdisagg.engine.sequence import Sequence


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
