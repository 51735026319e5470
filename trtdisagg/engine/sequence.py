"""One answer to a request on its way through the engine: its tokens, its blocks, how far its KV is computed.

A request with several choices has a sequence for each. The first of them computes the prompt; the others are unborn
until it has its first row of logits, from which all draw.

UNBORN ------------+
                   v
WAITING --> RUNNING -----------------------> FINISHED      its blocks are free
   | ^       ^ | |                              ^
   | +-------+-+ +-> HELD ----------------------+          context_only: until the generation server has the blocks
   |  preempted                                 |
   +--> FETCHING                                |
             +-----> QUARANTINED ---------------+          cancelled, but the fetch may still write
                                                |
EXPECTED ---------------------------------------+          no request yet: part of a prompt, fetched to be found
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from trtdisagg.engine.interfaces import Guide
from trtdisagg.engine.readings import PromptReadings
from trtdisagg.engine.record import Record
from trtdisagg.engine.request import Request
from trtdisagg.engine.sampling import History
from trtdisagg.protocol.answers import FinishReason
from trtdisagg.protocol.handover import Ticket


class State(Enum):
    UNBORN = "unborn"
    WAITING = "waiting"
    FETCHING = "fetching"
    RUNNING = "running"
    HELD = "held"
    QUARANTINED = "quarantined"
    EXPECTED = "expected"
    FINISHED = "finished"


ACTIVE = frozenset({State.UNBORN, State.WAITING, State.FETCHING, State.RUNNING})
"""Somebody waits for its tokens."""


@dataclass(slots=True, eq=False)
class Sequence:
    """An answer and its state. `tokens` is prompt and output; KV of the first `num_computed` is in `blocks`.

    tokens    0 .... num_prompt .......... len(tokens)
    KV        0 ....... num_computed
    """

    request: Request
    stop_ids: frozenset[int]
    """Every token that ends it: stop tokens and, unless ignored, the model's end of sequence."""
    choice: int = 0
    rank: tuple[int, int, int] = (0, 0, 0)
    """Lower ones are admitted first and preempted last: (-priority, arrival, choice)."""
    guide: Guide | None = None
    ticket: Ticket | None = None
    """Where its first KV is fetched; None: all of it is computed here."""
    offer: Ticket | None = None
    """What its KV is fetched with by others, once it is held."""
    state: State = State.WAITING
    dp_rank: int = 0
    """With attention data parallelism: whose blocks it gets."""
    siblings: list[Sequence] = field(default_factory=list)
    """Unborn choices of the same request, for which it computes the prompt."""
    leader: Sequence | None = None
    """Of an unborn one: whose sibling it is."""
    tokens: list[int] = field(init=False)
    num_prompt: int = field(init=False)
    num_computed: int = 0
    blocks: list[int] = field(default_factory=list)
    num_reserved: int = 0
    """Blocks that are kept free for it."""
    root: bytes = b""
    chain: list[bytes] = field(default_factory=list)
    """Hashes of its first full blocks, behind `root`."""
    num_published: int = 0
    """Of its blocks, those that others can find."""
    is_awaited: bool = False
    """Each chunk of it has a row of logits: when that is there, so is its KV, on all stages and on a device."""
    is_announced: bool = False
    """Who will fetch its KV is told of each piece of the prompt that is computed."""
    announcement: int | None = None
    """What the pieces are told as; None: none is, or what was is taken back."""
    num_announced: int = 0
    """Of its blocks, those that were told of."""
    readings: PromptReadings | None = None
    """What is to be told of its prompt, until it is."""
    num_cached: int | None = None
    """Prompt tokens that did not have to be computed; None: not known yet."""
    history: History = field(default_factory=History)
    """What the sampler counts of its tokens."""
    has_begun: bool = False
    """It had an output."""
    record: Record | None = None
    """Of its times; None: it is no request."""

    def __post_init__(self) -> None:
        self.num_prompt = len(self.request.prompt_token_ids)
        self.tokens = self.request.prompt_token_ids + self.request.output_token_ids

    @property
    def id(self) -> int:
        return self.request.id

    @property
    def is_active(self) -> bool:
        """Whether somebody waits for its tokens."""
        return self.state in ACTIVE

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
        return self.tokens[-1] in self.stop_ids and self.num_output > self.request.sampling.min_tokens

    @property
    def is_at_last(self) -> bool:
        """Whether the next token is the last one here, whatever it is."""
        return self.num_output + 1 >= self.request.sampling.max_tokens or self.request.type == "context_only"

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the tokens known so far are the last ones, or None when they are not."""
        if self.ends_with_stop or (self.guide is not None and self.guide.is_complete):
            return "stop"
        return "length" if self.num_output >= self.request.sampling.max_tokens else None
