"""What one choice of an answer looks like, in either API, whole or a part of a stream. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from trtdisagg.engine.http import logprobs
from trtdisagg.engine.http.answer import Answer, Prompt
from trtdisagg.engine.http.job import Job
from trtdisagg.engine.http.logits import rows
from trtdisagg.engine.http.piece import Piece
from trtdisagg.protocol.answers import AssistantMessage, ChatChoice, ChatChunkChoice, CompletionChoice, Delta
from trtdisagg.protocol.tools import FunctionCall, ToolCall, ToolCallDelta


def completion(job: Job, piece: Piece) -> CompletionChoice:
    """A part, or the whole."""
    look = job.look
    return CompletionChoice(
        index=piece.index,
        text=piece.text if look.detokenize else "",
        logprobs=None if look.num_logprobs is None else logprobs.of_completion(piece.tokens),
        finish_reason=piece.finish_reason,
        stop_reason=piece.stop_reason,
        token_ids=_token_ids(job, piece),
    )


def whole_completion(job: Job, answer: Answer, piece: Piece, **extra: Any) -> CompletionChoice:
    return msgspec.structs.replace(completion(job, piece), **of_prompt(job, answer.prompt), **_logits(answer), **extra)


def chat_part(job: Job, piece: Piece) -> ChatChunkChoice:
    look = job.look
    return ChatChunkChoice(
        index=piece.index,
        delta=Delta(content=(piece.text or None) if look.detokenize else None, tool_calls=piece.calls or None),
        logprobs=None if look.num_logprobs is None else logprobs.of_chat(piece.tokens),
        finish_reason=piece.finish_reason,
        token_ids=_token_ids(job, piece),
    )


def whole_chat(job: Job, answer: Answer, piece: Piece, **extra: Any) -> ChatChoice:
    look = job.look
    return ChatChoice(
        index=piece.index,
        message=_message(piece.text if look.detokenize else "", piece.calls),
        logprobs=None if look.num_logprobs is None else logprobs.of_chat(piece.tokens),
        finish_reason=piece.finish_reason,
        stop_reason=piece.stop_reason,
        token_ids=_token_ids(job, piece),
        **_logits(answer),
        **extra,
    )


def _message(text: str, calls: list[ToolCallDelta]) -> AssistantMessage:
    """OpenAI has no content where there are only calls."""
    if not calls:
        return AssistantMessage(content=text)
    return AssistantMessage(content=text or None, tool_calls=[_whole_call(call) for call in calls])


def _whole_call(call: ToolCallDelta) -> ToolCall:
    assert call.id is not None
    assert call.function.name is not None
    return ToolCall(id=call.id, function=FunctionCall(name=call.function.name, arguments=call.function.arguments or ""))


def opening_completion(job: Job, index: int) -> CompletionChoice:
    """Said before any text, where the prompt's tokens are wanted."""
    prompt = job.requests[index // job.num_answers].prompt_token_ids
    return CompletionChoice(index=index, text="", prompt_token_ids=prompt)


def opening_chat(index: int) -> ChatChunkChoice:
    return ChatChunkChoice(index=index, delta=Delta(role="assistant", content=""))


def of_prompt(job: Job, prompt: Prompt) -> dict[str, Any]:
    """Fields about the prompt: of a completion's choice, of a whole chat."""
    fields: dict[str, Any] = {}
    if job.look.prompt_token_ids:
        fields["prompt_token_ids"] = prompt.token_ids
    if job.look.num_prompt_logprobs is not None:
        fields["prompt_logprobs"] = logprobs.of_prompt(prompt.tokens, job.look.num_prompt_logprobs)
    return fields


def _logits(answer: Answer) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if answer.prompt.logits is not None:
        fields["context_logits"] = rows([answer.prompt.logits], len(answer.prompt.token_ids))
    if answer.logits:
        fields["generation_logits"] = rows(answer.logits, len(answer.token_ids))
    return fields


def _token_ids(job: Job, piece: Piece) -> list[int] | msgspec.UnsetType:
    if not job.look.token_ids:
        return msgspec.UNSET
    return [token.token_id for token in piece.tokens]
