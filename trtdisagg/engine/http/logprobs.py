"""How probable tokens were, as the two APIs say it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from trtdisagg.engine.http.tokens import Said
from trtdisagg.engine.request import TokenLogprob
from trtdisagg.protocol.answers import PromptLogprobs
from trtdisagg.protocol.logprobs import (
    MIN_LOGPROB,
    ChatLogprob,
    ChatLogprobs,
    CompletionLogprobs,
    HandedLogprob,
    HandedLogprobs,
    PromptLogprob,
    TopLogprob,
)


def of_completion(tokens: Sequence[Said]) -> CompletionLogprobs:
    said = [token for token in tokens if token.is_text]
    return CompletionLogprobs(
        text_offset=[token.offset for token in said],
        token_logprobs=[None if token.logprob is None else _finite(token.logprob) for token in said],
        tokens=[_written(token.spelt) for token in said],
        top_logprobs=[_top(token) for token in said],
    )


def of_chat(tokens: Sequence[Said]) -> ChatLogprobs:
    return ChatLogprobs(content=[_chat_logprob(token) for token in tokens if token.is_text])


def of_prompt(tokens: Sequence[Said], num: int) -> PromptLogprobs:
    """
    :param num: alternatives to name beside each token.
    """
    return [_prompt_logprob(token, num) for token in tokens]


def hand_over(token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> HandedLogprobs | None:
    """As TensorRT-LLM's servers hand it over: each token with its rank, and the others that were looked at."""
    return [_handed(token) for token in logprobs] if len(logprobs) == len(token_ids) else None


def take_over(token_ids: Sequence[int], handed: HandedLogprobs, num: int) -> list[TokenLogprob]:
    """The reverse.

    :param num: alternatives that are shown.
    """
    return [_taken(token_id, said, num) for token_id, said in zip(token_ids, handed, strict=False)]


def _finite(logprob: float) -> float:
    return max(logprob, MIN_LOGPROB)


def _written(spelt: bytes) -> str:
    """Text, or, of a part of a character, its bytes in the way that OpenAI writes them."""
    try:
        return spelt.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelt)


def _top(token: Said) -> dict[str, float] | None:
    if token.logprob is None:
        return None
    top = {_written(other.spelt): _finite(other.logprob) for other in reversed(token.top)}
    return {_written(token.spelt): _finite(token.logprob), **dict(reversed(top.items()))}


def _chat_logprob(token: Said) -> ChatLogprob:
    top = [
        TopLogprob(token=_text(other.spelt), logprob=_finite(other.logprob), bytes=list(other.spelt))
        for other in token.top
    ]
    logprob = MIN_LOGPROB if token.logprob is None else _finite(token.logprob)
    return ChatLogprob(token=_text(token.spelt), logprob=logprob, bytes=list(token.spelt), top_logprobs=top)


def _text(spelt: bytes) -> str:
    return spelt.decode(errors="replace")


def _prompt_logprob(token: Said, num: int) -> dict[int, PromptLogprob] | None:
    if token.logprob is None:
        return None
    ranked = {
        other.token_id: PromptLogprob(logprob=_finite(other.logprob), rank=rank, decoded_token=_text(other.spelt))
        for rank, other in enumerate(token.top[:num], 1)
    }
    own = PromptLogprob(logprob=_finite(token.logprob), rank=_rank(token), decoded_token=_text(token.spelt))
    return {token.token_id: own, **ranked}


def _rank(token: Said) -> int | None:
    return next((rank for rank, other in enumerate(token.top, 1) if other.token_id == token.token_id), None)


def _handed(token: TokenLogprob) -> list[HandedLogprob]:
    ranked = [HandedLogprob(token_id=t, logprob=_finite(p), rank=rank) for rank, (t, p) in enumerate(token.top, 1)]
    if any(other.token_id == token.token_id for other in ranked):
        return ranked
    return [HandedLogprob(token_id=token.token_id, logprob=_finite(token.logprob)), *ranked]


def _taken(token_id: int, said: list[HandedLogprob] | float, num: int) -> TokenLogprob:
    if isinstance(said, float):
        return TokenLogprob(token_id, said)
    own = next((other.logprob for other in said if other.token_id == token_id), MIN_LOGPROB)
    ranked = sorted((other for other in said if other.rank is not None and other.rank <= num), key=_by_rank)
    return TokenLogprob(token_id, own, [(other.token_id, other.logprob) for other in ranked])


def _by_rank(candidate: HandedLogprob) -> int:
    assert candidate.rank is not None
    return candidate.rank
