"""How an answer looks: OpenAI's bodies, and the events of a stream. Pure: text in, bytes out."""

from __future__ import annotations

from typing import Any

import msgspec

from trtdisagg.engine.http.intake import Job
from trtdisagg.engine.http.running import Piece
from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.answers import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    Completion,
    CompletionChoice,
    Delta,
    Usage,
    encode_error,
)
from trtdisagg.protocol.handover import DisaggregatedParams, SeamReply

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


def whole(job: Job, piece: Piece, usage: Usage) -> bytes:
    """The body of an answer that is not streamed."""
    return _encode(_body(job, piece, usage))


def context_answer(job: Job, piece: Piece, usage: Usage, params: DisaggregatedParams | None) -> bytes:
    """The first token as an answer, and what is needed to go on from it.

    :param params: with the ticket; None when nothing is to come.
    """
    extra: dict[str, Any] = {"prompt_token_ids": job.request.prompt_token_ids}
    if job.seam is not None:
        extra["seam"] = _first_part(job, piece, usage) if job.frames_stream else SeamReply()
    return _encode(_body(job, piece, usage, params or msgspec.UNSET, **extra))


def begin(job: Job) -> bytes:
    """The events before any text."""
    return _chat_event(job, Delta(role="assistant", content=""), None, None) if job.chat else b""


def event(job: Job, piece: Piece, usage: Usage) -> bytes:
    """One piece of a stream; behind the last one, its ending."""
    so_far = usage if job.continuous_usage else None
    if job.chat:
        delta = Delta(content=piece.text) if piece.text else Delta()
        made = _chat_event(job, delta, piece, so_far)
    else:
        made = _event(_completion(job, [_completion_choice(piece)], _usage_field(job, so_far)))
    return made + _ending(job, usage) if piece.finish_reason else made


def error_event(error: TrtdisaggError) -> bytes:
    """An error in a stream that has begun."""
    return b"data: " + encode_error(error) + b"\n\n"


def _first_part(job: Job, piece: Piece, usage: Usage) -> SeamReply:
    """The beginning of the client's stream, and all of it when nothing is to come."""
    events = begin(job)
    if piece.finish_reason != "not_finished":
        events += event(job, piece, usage)
    elif piece.text:
        events += event(job, Piece(piece.text), usage)
    return SeamReply(num_chars_sent=len(piece.text), first_chunk=events.decode())


def _body(
    job: Job,
    piece: Piece,
    usage: Usage,
    params: DisaggregatedParams | msgspec.UnsetType = msgspec.UNSET,
    **extra: Any,
) -> Completion | ChatCompletion:
    if not job.chat:
        return _completion(job, [_completion_choice(piece, params)], usage, **extra)
    choice = ChatChoice(
        index=0,
        message=AssistantMessage(content=piece.text),
        finish_reason=piece.finish_reason,
        stop_reason=piece.stop_reason,
        disaggregated_params=params,
    )
    return ChatCompletion(id=job.id, created=job.created, model=job.model, choices=[choice], usage=usage, **extra)


def _completion(
    job: Job, choices: list[CompletionChoice], usage: Usage | msgspec.UnsetType | None, **extra: Any
) -> Completion:
    return Completion(id=job.id, created=job.created, model=job.model, choices=choices, usage=usage, **extra)


def _completion_choice(
    piece: Piece, params: DisaggregatedParams | msgspec.UnsetType = msgspec.UNSET
) -> CompletionChoice:
    return CompletionChoice(
        index=0,
        text=piece.text,
        finish_reason=piece.finish_reason,
        stop_reason=piece.stop_reason,
        disaggregated_params=params,
    )


def _chat_event(job: Job, delta: Delta, piece: Piece | None, usage: Usage | None) -> bytes:
    choice = ChatChunkChoice(index=0, delta=delta, finish_reason=piece.finish_reason if piece else None)
    return _event(_chat_chunk(job, [choice], _usage_field(job, usage)))


def _chat_chunk(job: Job, choices: list[ChatChunkChoice], usage: Usage | msgspec.UnsetType | None) -> ChatChunk:
    return ChatChunk(id=job.id, created=job.created, model=job.model, choices=choices, usage=usage)


def _ending(job: Job, usage: Usage) -> bytes:
    if not job.include_usage:
        return DONE
    return _event(_chat_chunk(job, [], usage) if job.chat else _completion(job, [], usage)) + DONE


def _usage_field(job: Job, usage: Usage | None) -> Usage | msgspec.UnsetType | None:
    """With `include_usage` every chunk has the field, null but in the last, as OpenAI has it."""
    return usage if usage or job.include_usage else msgspec.UNSET


def _event(chunk: Completion | ChatChunk) -> bytes:
    return b"data: " + _encode(chunk) + b"\n\n"
