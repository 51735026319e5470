"""Who computes how much in the next step: the generation policy first, the context policy with what it leaves.

    budget  |<--------------------- max_num_tokens --------------------->|
            | generation: one token each | context: the oldest prompt first, in chunks |

So a long prompt never makes those who already stream wait for more than one step, and no request that was admitted
starves: no more are active than there are tokens in a step, so one that is in its context phase leaves itself a token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from trtdisagg.engine.sequence import Sequence


class Share(NamedTuple):
    """What one sequence computes in a step."""

    sequence: Sequence
    num_tokens: int


def generation_policy(running: Iterable[Sequence], budget: int) -> Iterator[Share]:
    """One token for each sequence whose context is computed."""
    generating = [s for s in running if not s.in_context]
    assert len(generating) <= budget, "more sequences generate than a step has tokens"
    return (Share(s, 1) for s in generating)


def context_policy(running: Iterable[Sequence], budget: int) -> Iterator[Share]:
    """Contexts in the order of admission, each as far as the budget goes."""
    for s in running:
        if budget and s.in_context:
            num_tokens = min(s.num_context - s.num_computed, budget)
            budget -= num_tokens
            yield Share(s, num_tokens)
