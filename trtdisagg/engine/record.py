"""When things happened to one request, for those who want to know it of each.

    arrived <= transfer started <= transfer ended <= scheduled <= first token <= last token

The engine's thread writes it until the last output; whoever got it with the first one reads single numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trtdisagg.cache.transfers import Transfer


@dataclass(slots=True)
class Record:
    """Seconds of the monotonic clock; 0: it has not happened. The choices of a request share one."""

    clock: Callable[[], float]
    arrived_s: float
    scheduled_s: float = 0.0
    """It was computed from then on: after the transfer, where there is one."""
    first_token_s: float = 0.0
    last_token_s: float = 0.0
    first_step: int = 0
    """Number of the step that computed something of it first."""
    last_step: int = 0
    transfer: Transfer | None = None
    """What has come for it from another server."""
    num_blocks: int = 0
    """It had at once, at most."""
    num_reused_blocks: int = 0
    """Of these, found here when it was admitted first."""
    num_missed_blocks: int = 0
    """Of its prompt, not found."""

    def admitted(self, num_blocks: int, num_found: int, num_prompt_blocks: int) -> None:
        """It has blocks for the first time, or again.

        :param num_found: of them; what is in these was here already.
        :param num_prompt_blocks: that its prompt fills.
        """
        if not self.num_blocks:
            self.num_blocks, self.num_reused_blocks = num_blocks, num_found
            self.num_missed_blocks = num_prompt_blocks - num_found

    def scheduled(self, num_steps: int) -> None:
        """Nothing stands between it and the next step.

        :param num_steps: computed so far.
        """
        if not self.scheduled_s:
            self.scheduled_s, self.first_step = self.clock(), num_steps + 1

    def token(self, num_blocks: int, num_steps: int) -> None:
        """
        :param num_blocks: that it has now.
        :param num_steps: computed so far, with that which the token was drawn from.
        """
        self.last_token_s, self.last_step = self.clock(), num_steps
        self.first_token_s = self.first_token_s or self.last_token_s
        self.num_blocks = max(self.num_blocks, num_blocks)
