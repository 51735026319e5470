"""Which of the answers that were generated are given. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from trtdisagg.engine.http.answer import Answer
from trtdisagg.engine.http.job import Job
from trtdisagg.engine.http.piece import Piece


def best(job: Job, answers: Sequence[Answer], pieces: Sequence[Piece]) -> list[tuple[Answer, Piece]]:
    """The `n` most probable answers to each prompt, the best first, with their index in the body.

    An answer's logarithm of probability is divided by its length to the power of `length_penalty`, as in beam search
    (Wu et al., "Google's Neural Machine Translation System", 2016, simplified by all since).
    """
    num, num_generated = job.num_answers, job.requests[0].num_choices
    if num == num_generated:
        return list(zip(answers, pieces, strict=True))
    chosen: list[Answer] = []
    for start in range(0, len(answers), num_generated):
        ranked = sorted(answers[start : start + num_generated], key=lambda a: _score(a, job.length_penalty))
        chosen += reversed(ranked[-num:])
    return [(answer, msgspec.structs.replace(pieces[answer.index], index=i)) for i, answer in enumerate(chosen)]


def _score(answer: Answer, length_penalty: float) -> tuple[float, int]:
    """Of equal ones the first."""
    sum_logprobs = sum(token.logprob for token in answer.logprobs)
    return sum_logprobs / max(1, len(answer.token_ids)) ** length_penalty, -answer.index
