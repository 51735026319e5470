"""What comes into the engine and what comes out of it, as values; tokens only, no text.

Stop strings, chat templates and detokenizing are the caller's.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from torch import Tensor

from trtdisagg.engine.record import Record
from trtdisagg.protocol.answers import FinishReason
from trtdisagg.protocol.guide import GuideSpec
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
    min_p: float = 0.0
    """Tokens less probable than this share of the most probable one are left out."""
    repetition_penalty: float = 1.0
    """Logits of tokens that are in prompt or output are divided by it where positive, else multiplied (Keskar et al.,
    "CTRL", 2019)."""
    presence_penalty: float = 0.0
    """Taken from the logits of tokens that are in the output, once (as OpenAI documents it, like the next)."""
    frequency_penalty: float = 0.0
    """Taken once for each time the token is in the output."""
    logit_bias: dict[int, float] = {}
    """Token id -> added to its logit."""
    bad_words: list[list[int]] = []
    """Sequences of tokens that are not generated: the last of one is not sampled behind the others."""
    num_logprobs: int | None = None
    """So many of the most probable tokens are named beside each one chosen; 0: the chosen one alone; None: nothing."""
    num_prompt_logprobs: int | None = None
    """The same of the prompt's tokens, all but the first."""


class TokenLogprob(NamedTuple):
    """How probable one token was: the logarithm of the model's own distribution, before temperature and penalties."""

    token_id: int
    logprob: float
    top: list[tuple[int, float]] = []
    """(token id, logarithm) of the most probable tokens, best first."""


class ContextPhaseParams(msgspec.Struct, kw_only=True, frozen=True):
    """What a context executor did for a request, for the generation executor that goes on with it."""

    request_id: int
    """On the context executor; the one on the other is independent of it."""
    first_token_ids: list[int]
    first_logprobs: list[TokenLogprob] = []
    ticket: Ticket
    """Where the prompt's KV is: the context executor must live until it was fetched."""


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
    context_phase_params: ContextPhaseParams | None = None
    """In place of the two fields above, with `generation_only`: then the outputs begin with the first token."""
    num_choices: int = 1
    """Answers to one prompt, which is computed once; they differ by the choice's index in the randomness."""
    reader: str | None = None
    """Of a `context_only` request: name of the server that will most likely come for its KV; None: not known."""
    priority: int = 0
    """Higher is admitted sooner, and preempted later."""
    timeout_s: float | None = None
    """From its arrival; then it ends with finish reason `timeout`."""
    guide: GuideSpec | None = None
    """What its output must look like."""
    cache_salt: str | None = None
    """Its KV is shared only with requests of the same salt."""
    wants_context_logits: bool = False
    wants_generation_logits: bool = False


class Output(msgspec.Struct, kw_only=True, frozen=True):
    """What one step gave one request. The last one has a finish reason."""

    request_id: int
    choice: int = 0
    """Which of the request's answers; each has a last output of its own."""
    new_token_ids: list[int] = []
    finish_reason: FinishReason | None = None
    """`not_finished`: a context_only request that goes on elsewhere, with `ticket`."""
    stop_token_id: int | None = None
    """The stop or end-of-sequence token that ended it; it is the last of `new_token_ids`."""
    ticket: Ticket | None = None
    num_cached_tokens: int = 0
    """Prompt tokens whose KV did not have to be computed or moved."""
    logprobs: list[TokenLogprob] = []
    """One for each of `new_token_ids`, where asked for."""
    prompt_logprobs: list[TokenLogprob] = []
    """Of all prompt tokens but the first; once, with the first output of choice 0."""
    context_logits: Tensor | None = None
    """float32 [prompt tokens, vocab] on the CPU; once, likewise."""
    generation_logits: Tensor | None = None
    """float32 [new tokens, vocab] on the CPU."""
    record: Record | None = None
    """Of its times, with the first output; the engine goes on writing it until the last."""
    error: str | None = None
    """With finish reason `error`, for people."""
    is_own_fault: bool = False
    """The error lies in the request: no server would do better."""

    @property
    def context_phase_params(self) -> ContextPhaseParams | None:
        """For a `generation_only` request elsewhere; None: this is no context phase, or the answer ended in it."""
        if self.ticket is None:
            return None
        return ContextPhaseParams(
            request_id=self.request_id,
            first_token_ids=self.new_token_ids,
            first_logprobs=self.logprobs,
            ticket=self.ticket,
        )
