"""One body, checked: what the engine is to compute for it, and how the answer is to look."""

from __future__ import annotations

import msgspec

from trtdisagg.engine.request import Request, TokenLogprob
from trtdisagg.protocol.handover import DisaggregatedParams, Seam
from trtdisagg.text.tools.use import ToolUse


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of the tokens."""

    stops: list[str]
    include_stop: bool
    skip_special_tokens: bool
    num_logprobs: int | None = None
    """So many alternatives are named beside each token; None: no `logprobs`."""
    num_prompt_logprobs: int | None = None
    detokenize: bool = True
    """False: no text is shown."""
    token_ids: bool = False
    """The answer's tokens are shown, too."""
    prompt_token_ids: bool = False
    """Likewise the prompt's."""
    echoes: list[str] = []
    """The text of each prompt, said before its answers; empty: it is not."""
    tools: ToolUse | None = None
    """Calls of tools are found in the text."""
    only_echo: bool = False
    """No token is wanted: the one that the engine generates is thrown away."""

    @property
    def shows_tokens(self) -> bool:
        """An answer is more than its text."""
        return self.num_logprobs is not None or self.token_ids


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """
    requests    prompt 0       prompt 1        each a request of the engine
    answers     0 1 .. n-1     n .. 2n-1       in the body that the client gets
    """

    requests: list[Request]
    num_answers: int
    """To each prompt; the engine may generate more (`best_of`)."""
    length_penalty: float
    look: Look
    chat: bool
    model: str
    id: str
    """What the client sees."""
    created: int
    stream: bool
    """The answer to this leg is a stream."""
    frames_stream: bool
    """The client's stream is made here: of this leg, or, on a context leg, its first part."""
    has_begun: bool
    """The client has had the beginning of its stream from another server."""
    has_ended: bool
    """And its end, but for the last events."""
    include_usage: bool
    continuous_usage: bool
    num_chars_sent: int
    first_logprobs: list[TokenLogprob]
    """Of the tokens that came with the request."""
    num_cached_elsewhere: int | None
    """Tokens of the prompt that the context server did not have to compute; None: it did not say."""
    params: DisaggregatedParams | None
    seam: Seam | None
    has_parts: bool
    """Each event of the client's stream says how to go on behind it."""

    @property
    def is_context_only(self) -> bool:
        return self.requests[0].type == "context_only"
