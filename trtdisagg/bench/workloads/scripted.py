"""Plays conversations that are known in advance but for the answers: the next turn is told all that was said before.

What takes time, drawing and counting prompts, is done when a conversation is opened, so that a turn in the middle of a
measurement costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from trtdisagg.bench.serve.asked import Asked, Message

Prompt = str | tuple[int, ...] | tuple[Message, ...]


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """What a user says, and how long the answer is to be.

    :param prompt: of a turn that follows another: text.
    """

    prompt: Prompt
    max_tokens: int
    num_input_tokens: int | None = None
    """Of this turn alone."""


class Scripted:
    """A `Workload`.

    :param scripts: makes the conversations anew; each has at least one turn.
    :param think_s: between an answer and the next turn.
    """

    def __init__(self, scripts: Callable[[], Iterator[Sequence[Turn]]], *, think_s: float = 0.0) -> None:
        self._scripts = scripts
        self._think_s = think_s
        self._later: dict[int, Sequence[Turn]] = {}

    def opening(self) -> Iterator[Asked]:
        for number, (first, *later) in enumerate(self._scripts()):
            if later:
                self._later[number] = later
            yield Asked(
                prompt=first.prompt,
                max_tokens=first.max_tokens,
                num_input_tokens=first.num_input_tokens,
                conversation=number,
            )

    def reply(self, asked: Asked, answer: str) -> Asked | None:
        later = self._later.get(asked.conversation, ())
        if asked.turn == len(later):
            self._later.pop(asked.conversation, None)
            return None
        turn = later[asked.turn]
        assert isinstance(turn.prompt, str)
        return Asked(
            prompt=(*_chat(asked.prompt), Message("assistant", answer), Message("user", turn.prompt)),
            max_tokens=turn.max_tokens,
            conversation=asked.conversation,
            turn=asked.turn + 1,
            think_s=self._think_s,
        )


def _chat(prompt: Prompt) -> tuple[Message, ...]:
    if isinstance(prompt, str):
        return (Message("user", prompt),)
    return tuple(m for m in prompt if isinstance(m, Message))
