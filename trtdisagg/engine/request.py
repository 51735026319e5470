"""What comes into the engine and what comes out of it, as values; tokens only, no text.

Stop strings, chat templates and detokenizing are the caller's.
"""

from __future__ import annotations

import msgspec

from trtdisagg.protocol.answers import FinishReason
from trtdisagg.protocol.handover import RequestType, Ticket


class SamplingParams(msgspec.Struct, kw_only=True, frozen=True):
    """How the tokens of one request are chosen and when they end."""

    max_tokens: int
    """Tokens to generate at most, those that came with the request included."""
    min_tokens: int = 0
    """End-of-sequence and stop tokens are not sampled before this many."""
    temperature: float = 1.0
    """0: greedy."""
    top_k: int = 0
    """0: all."""
    top_p: float = 1.0
    seed: int = 0
    """With the position, the whole of the randomness: so any server that has the tokens goes on the same."""
    ignore_eos: bool = False
    stop_token_ids: frozenset[int] = frozenset()
    """Beside the model's own end-of-sequence tokens."""


class Request(msgspec.Struct, kw_only=True, frozen=True):
    """One request for the executor."""

    id: int
    type: RequestType = "context_and_generation"
    prompt_token_ids: list[int]
    output_token_ids: list[int] = []
    """Tokens that were already generated elsewhere: with `generation_only`, the context server's first token."""
    sampling: SamplingParams
    ticket: Ticket | None = None
    """Where the prompt's KV is to be had; None, or a transfer that fails: computed here."""


class Output(msgspec.Struct, kw_only=True, frozen=True):
    """What one step gave one request. The last one has a finish reason."""

    request_id: int
    new_token_ids: list[int] = []
    finish_reason: FinishReason | None = None
    """`not_finished`: a context_only request that goes on elsewhere, with `ticket`."""
    stop_token_id: int | None = None
    """The stop or end-of-sequence token that ended it; it is the last of `new_token_ids`."""
    ticket: Ticket | None = None
    num_cached_tokens: int = 0
    """Prompt tokens whose KV did not have to be computed or moved."""
    error: str | None = None
    """With finish reason `error`, for people."""
