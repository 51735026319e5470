"""Who computes how much in the next step: the generation policy first, the context policy with what it leaves.

    budget  |<--------------------- max_num_tokens --------------------->|
            | generation: one token each | context: the oldest prompt first, in chunks |

So a long prompt never makes those who already stream wait for more than one step, and no request that was admitted
starves: no more are active than there are tokens in a step, so one that is in its context phase leaves itself a token.

Without chunks a prompt is computed in one step. Where it does not fit beside those who generate, they wait for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from trtdisagg.engine.limits import Limits
from trtdisagg.engine.sequence import Sequence


class Share(NamedTuple):
    """What one sequence computes in a step."""

    sequence: Sequence
    num_tokens: int


def generation_policy(generating: list[Sequence], context: list[Sequence], limits: Limits) -> list[Sequence]:
    """Everybody whose context is computed, with one token.

    :param context: who is still in it, in the order of admission.
    """
    assert len(generating) <= limits.max_num_tokens, "more sequences generate than a step has tokens"
    if context and not limits.enable_chunked_prefill:
        next_prompt = min(context[0].num_context - context[0].num_computed, limits.max_num_tokens)
        if next_prompt > limits.max_num_tokens - len(generating):
            return []
    return generating


def context_policy(context: list[Sequence], budget: int, limits: Limits) -> Iterator[Share]:
    """Contexts in the order of admission, each as far as the budget goes.

    :param budget: tokens that are left.
    """
    num_rows = limits.max_rows
    for sequence in context:
        num_tokens = min(num_left := sequence.num_context - sequence.num_computed, budget)
        if sequence.readings is not None:  # a row of logits for each of its tokens
            num_tokens = min(num_tokens, num_rows)
            num_rows -= num_tokens
        elif num_tokens < num_left <= limits.max_num_tokens and not limits.enable_chunked_prefill:
            return
        budget -= num_tokens
        if num_tokens:
            yield Share(sequence, num_tokens)
        if not budget:
            return
