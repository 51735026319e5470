"""One request on its way through the engine: its tokens, its blocks, how far its KV is computed.

WAITING --> RUNNING -----------------------> FINISHED      its blocks are free
   |         ^   |                              ^
   |         |   +-> HELD ----------------------+          context_only: until the generation server has the blocks
   +--> FETCHING                                |
             +-----> QUARANTINED ---------------+          cancelled, but the fetch may still write
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from trtdisagg.engine.request import Request
from trtdisagg.engine.sampling import History
from trtdisagg.protocol.answers import FinishReason
from trtdisagg.protocol.handover import Ticket


class State(Enum):
    WAITING = "waiting"
    FETCHING = "fetching"
    RUNNING = "running"
    HELD = "held"
    QUARANTINED = "quarantined"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Sequence:
    """A request and its state. `tokens` is prompt and output; KV of the first `num_computed` is in `blocks`.

    tokens    0 .... num_prompt .......... len(tokens)
    KV        0 ....... num_computed
    """

    request: Request
    stop_ids: frozenset[int]
    """Every token that ends it: stop tokens and, unless ignored, the model's end of sequence."""
    ticket: Ticket | None = None
    """Where its first KV is fetched; None: all of it is computed here."""
    offer: Ticket | None = None
    """What its KV is fetched with by others, once it is held."""
    num_prompt: int = field(init=False)
    tokens: list[int] = field(init=False)
    history: History = field(default_factory=History)
    """Its tokens counted, for penalties."""
    num_computed: int = 0
    blocks: list[int] = field(default_factory=list)
    state: State = State.WAITING

    def __post_init__(self) -> None:
        self.num_prompt = len(self.request.prompt_token_ids)
        self.tokens = self.request.prompt_token_ids + self.request.output_token_ids

    @property
    def id(self) -> int:
        return self.request.id

    @property
    def is_active(self) -> bool:
        """Whether somebody waits for its tokens."""
        return self.state in (State.WAITING, State.FETCHING, State.RUNNING)

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def num_context(self) -> int:
        """Tokens that belong to the context phase: the prompt, or all but the last token when some are generated.

        The last generated token is always computed alone, as it would have been where it was generated.
        """
        return len(self.tokens) - 1 if self.num_output else self.num_prompt

    @property
    def in_context(self) -> bool:
        return self.num_computed < self.num_context

    @property
    def banned_ids(self) -> frozenset[int]:
        """Tokens that may not be sampled next: those that would end it before `min_tokens`."""
        return self.stop_ids if self.num_output < self.request.sampling.min_tokens else frozenset()

    @property
    def ends_with_stop(self) -> bool:
        return self.num_output > self.request.sampling.min_tokens and self.tokens[-1] in self.stop_ids

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the tokens known so far are the last ones, or None when they are not."""
        if self.ends_with_stop:
            return "stop"
        return "length" if self.num_output >= self.request.sampling.max_tokens else None
