"""What is asked: the requests of a workload, one conversation after the other.

    workload.opening() -> Asked -> its answer -> workload.reply(asked, answer) -> Asked | None

Knows neither the endpoint nor when anything is sent. A request of one turn is a conversation that nothing follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec


class Message(msgspec.Struct, frozen=True):
    """One of a chat."""

    role: str
    content: str


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One request."""

    prompt: str | tuple[int, ...] | tuple[Message, ...]
    """Text, token ids, or a chat. Token ids go to /v1/completions only, chats to /v1/chat/completions only; there text
    is the message of a user."""
    max_tokens: int
    num_input_tokens: int | None = None
    """As the workload counts them; None: it does not, and only the server can say."""
    conversation: int = 0
    """Turns of one conversation have the same number."""
    turn: int = 0
    think_s: float = 0.0
    """Between the answer before and this turn."""


class Workload(Protocol):
    """Yields the same requests whenever it was made with the same seed."""

    def opening(self) -> Iterator[Asked]:
        """The first turn of each conversation; as many as there are, possibly without end."""

    def reply(self, asked: Asked, answer: str) -> Asked | None:
        """The next turn, now that the one before was answered; None: that was the last."""
