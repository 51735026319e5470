"""How the answers to a job look: OpenAI's bodies, and the events of a stream. Pure: pieces in, bytes out.

What one choice looks like in either API is known by choices.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from trtdisagg.engine.http import choices
from trtdisagg.engine.http.answer import Answer
from trtdisagg.engine.http.job import Job
from trtdisagg.engine.http.piece import Piece
from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.answers import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    Completion,
    CompletionChoice,
    Usage,
    encode_error,
)
from trtdisagg.protocol.handover import DisaggregatedParams, SeamPart, SeamReply

DONE = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


def whole(job: Job, answers: Sequence[tuple[Answer, Piece]], usage: Usage) -> bytes:
    """The body of an answer that is not streamed.

    :param answers: those that the client gets, in order, each with all of its text.
    """
    if job.chat:
        chat = [choices.whole_chat(job, answer, piece) for answer, piece in answers]
        return _encode(_whole_chat(job, chat, usage, **choices.of_prompt(job, answers[0][0].prompt)))
    return _encode(_chunk(job, [choices.whole_completion(job, answer, piece) for answer, piece in answers], usage))


def context_answer(job: Job, answer: Answer, piece: Piece, usage: Usage, params: DisaggregatedParams | None) -> bytes:
    """The first token as an answer, and what is needed to go on from it.

    :param params: with the ticket; None when nothing is to come.
    """
    handed = {"disaggregated_params": params or msgspec.UNSET}
    extra: dict[str, Any] = {"prompt_token_ids": answer.prompt.token_ids}
    if job.seam is not None:
        extra["seam"] = _first_part(job, answer, piece, usage) if job.frames_stream else SeamReply()
    if job.chat:
        return _encode(_whole_chat(job, [choices.whole_chat(job, answer, piece, **handed)], usage, **extra))
    return _encode(_chunk(job, [choices.whole_completion(job, answer, piece, **handed)], usage, **extra))


def begin(job: Job) -> bytes:
    """The events before any text."""
    indices = range(len(job.requests) * job.num_answers)
    shown, part = job.look.prompt_token_ids, SeamPart(0, []) if job.has_parts else None
    if job.chat:
        prompt = job.requests[0].prompt_token_ids if shown else msgspec.UNSET
        opening = [_chat_chunk(job, [choices.opening_chat(i)], None, part, prompt_token_ids=prompt) for i in indices]
        return b"".join(map(_event, opening))
    if shown:
        return b"".join(_event(_chunk(job, [choices.opening_completion(job, i)], None, part)) for i in indices)
    return b""


def events(job: Job, pieces: Iterable[Piece], usage: Usage | None, part: SeamPart | None) -> bytes:
    """Pieces of a stream, an event each.

    :param usage: so far, where it is wanted.
    :param part: of the one piece, likewise.
    """
    if job.chat:
        return b"".join(_event(_chat_chunk(job, [choices.chat_part(job, piece)], usage, part)) for piece in pieces)
    return b"".join(_event(_chunk(job, [choices.completion(job, piece)], usage, part)) for piece in pieces)


def ending(job: Job, usage: Usage, part: SeamPart | None) -> bytes:
    """The events behind all text.

    :param part: with no more tokens, where it is wanted.
    """
    if not job.include_usage:
        return DONE
    return _event(_chat_chunk(job, [], usage, part) if job.chat else _chunk(job, [], usage, part)) + DONE


def error_event(error: TrtdisaggError) -> bytes:
    """An error in a stream that has begun."""
    return b"data: " + encode_error(error) + b"\n\n"


def _first_part(job: Job, answer: Answer, piece: Piece, usage: Usage) -> SeamReply:
    """The beginning of the client's stream, and all of it when nothing is to come.

    There is an event of the first token in any case, though its text may be held back: it has the token's part.
    """
    num_chars, so_far = answer.num_passed, usage if job.continuous_usage else None
    goes_on = piece.finish_reason == "not_finished"
    piece = msgspec.structs.replace(piece, finish_reason=None) if goes_on else piece
    said = begin(job) + events(job, [piece], so_far, SeamPart(num_chars, answer.token_ids))
    if not goes_on:
        said += ending(job, usage, SeamPart(num_chars, []))
    return SeamReply(num_chars_sent=num_chars, first_chunk=said.decode())


def _chunk(
    job: Job,
    made: list[CompletionChoice],
    usage: Usage | None = None,
    seam: SeamReply | SeamPart | None = None,
    **extra: Any,
) -> Completion:
    """Whole or not: it looks the same."""
    return Completion(
        id=job.id,
        created=job.created,
        model=job.model,
        choices=made,
        usage=_usage_field(job, usage),
        seam=seam or msgspec.UNSET,
        **extra,
    )


def _chat_chunk(
    job: Job, made: list[ChatChunkChoice], usage: Usage | None, part: SeamPart | None, **extra: Any
) -> ChatChunk:
    return ChatChunk(
        id=job.id,
        created=job.created,
        model=job.model,
        choices=made,
        usage=_usage_field(job, usage),
        seam=part or msgspec.UNSET,
        **extra,
    )


def _whole_chat(job: Job, made: list[ChatChoice], usage: Usage, **extra: Any) -> ChatCompletion:
    return ChatCompletion(id=job.id, created=job.created, model=job.model, choices=made, usage=usage, **extra)


def _usage_field(job: Job, usage: Usage | None) -> Usage | msgspec.UnsetType | None:
    """With `include_usage` every chunk has the field, null but in the last, as OpenAI has it."""
    return usage if usage or job.include_usage else msgspec.UNSET


def _event(chunk: Completion | ChatChunk) -> bytes:
    return b"data: " + _encode(chunk) + b"\n\n"
