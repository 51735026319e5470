"""What became of one request, as times and counts. All times are in seconds on the monotonic clock."""

from __future__ import annotations

from array import array
from collections.abc import Callable

import msgspec


def _times() -> array[float]:
    return array("d")


def _counts() -> array[int]:
    return array("q")


class Outcome(msgspec.Struct, kw_only=True):
    """Filled while the answer comes.

    heard_at    [num_chunks] when each chunk with tokens came
    num_by      [num_chunks] tokens of the answer up to and with it, as the server says; where it does not, one a chunk
    """

    index: int
    """Of its conversation."""
    max_tokens: int
    sent_at: float = 0.0
    heard_at: array[float] = msgspec.field(default_factory=_times)
    num_by: array[int] = msgspec.field(default_factory=_counts)
    num_guessed: int = 0
    """Chunks of which the server does not say how many tokens they have."""
    ended_at: float = 0.0
    """When the last token came; of what is not streamed, the last byte; of what failed, when that was known."""
    num_input_tokens: int | None = None
    """As the server says, otherwise as the workload does; None: neither."""
    num_output_tokens: int | None = None
    """As the server says; None: it does not."""
    is_cancelled: bool = False
    error: str | None = None
    """Its kind, in a few words that are the same for all of the kind."""
    message: str = ""
    """What was said of it."""

    @property
    def is_completed(self) -> bool:
        return self.error is None and not self.is_cancelled

    @property
    def num_tokens(self) -> int | None:
        """Of the answer; where the server does not say, each chunk counts as one. None: it has no chunks either."""
        return (self.num_seen or None) if self.num_output_tokens is None else self.num_output_tokens

    @property
    def num_seen(self) -> int:
        """Tokens that have come so far."""
        return self.num_by[-1] if self.num_by else 0


Watch = Callable[["Progress"], None]


class Progress(msgspec.Struct, frozen=True):
    """How far a load is."""

    num_prompts: int
    """That there will be, conversations counted once."""
    num_begun: int
    num_ended: int
    num_failed: int
    """Requests."""
    num_tokens: int
    """Of answers that are complete."""
    is_warmup: bool = False
