"""What the fake engine makes of a request body, and the bodies it answers with."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
from fakes.words import chat_ids, num_chars, token_id, token_text, tokenize

from trtdisagg.errors import ContextLengthError, ModelNotFoundError, RequestError, TrtdisaggError, UnsupportedError
from trtdisagg.protocol.answers import (
    AssistantMessage,
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    Completion,
    CompletionChoice,
    Delta,
    FinishReason,
    Usage,
    encode_error,
)
from trtdisagg.protocol.decoding import decode_request
from trtdisagg.protocol.handover import DisaggregatedParams, Seam, SeamPart, SeamReply
from trtdisagg.protocol.openai import ChatRequest, CompletionRequest
from trtdisagg.protocol.spec import EngineSpec

DEFAULT_MAX_TOKENS = 16


@dataclasses.dataclass
class Job:
    """One leg, as the fake engine sees it."""

    chat: bool
    model: str
    prompt: tuple[int, ...]
    max_tokens: int
    params: DisaggregatedParams
    stream: bool
    seam: Seam | None
    include_usage: bool

    @property
    def num_done(self) -> int:
        """Tokens that other servers made."""
        return len(self.params.first_gen_tokens or [])

    @property
    def has_begun(self) -> bool:
        """The client has the beginning of the stream."""
        return self.seam is not None and self.params.request_type == "generation_only"

    @property
    def id(self) -> str:
        return self.seam.id if self.seam else ("chatcmpl-fake" if self.chat else "cmpl-fake")

    @property
    def created(self) -> int:
        return self.seam.created if self.seam else 1

    def text(self, start: int, stop: int) -> str:
        return "".join(token_text(self.prompt, i) for i in range(start, stop))

    def usage(self, num_tokens: int) -> Usage:
        num_prompt = len(self.prompt)
        return Usage(prompt_tokens=num_prompt, completion_tokens=num_tokens, total_tokens=num_prompt + num_tokens)


def decode_job(body: bytes, spec: EngineSpec, *, chat: bool) -> Job:
    """Check a body as the real engine does.

    :raises RequestError: when it cannot be served.
    """
    request: ChatRequest | CompletionRequest
    request = decode_request(body, ChatRequest) if chat else decode_request(body, CompletionRequest)
    if request.model != spec.model:
        raise ModelNotFoundError(f"The model `{request.model}` is not served here", param="model")
    max_tokens = request.max_tokens
    if isinstance(request, ChatRequest):
        max_tokens = request.max_completion_tokens or max_tokens
    job = Job(
        chat=chat,
        model=request.model,
        prompt=_prompt(request),
        max_tokens=max_tokens or DEFAULT_MAX_TOKENS,
        params=request.disaggregated_params or DisaggregatedParams(request_type="context_and_generation"),
        stream=request.stream,
        seam=request.seam,
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
    )
    if len(job.prompt) + job.max_tokens > spec.max_seq_len:
        raise ContextLengthError(f"Prompt and output together are longer than {spec.max_seq_len}", param="prompt")
    _check_what_is_done(job)
    return job


def _check_what_is_done(job: Job) -> None:
    if (job.params.first_gen_tokens or []) != [token_id(job.prompt, i) for i in range(job.num_done)]:
        raise RequestError("The first tokens are not those of this prompt", param="disaggregated_params")
    num_said = num_chars(job.num_done) if job.stream else 0
    if job.seam is not None and job.params.request_type == "generation_only" and job.seam.num_chars_sent != num_said:
        raise RequestError(f"The tokens have {num_said} characters, not {job.seam.num_chars_sent}", param="seam")


def _prompt(request: ChatRequest | CompletionRequest) -> tuple[int, ...]:
    ids: Any = request.prompt_token_ids
    if ids is None and isinstance(request, ChatRequest):
        ids = chat_ids([{"role": m.role, "content": m.text()} for m in request.messages])
    elif ids is None and isinstance(request, CompletionRequest):
        ids = tokenize(request.prompt) if isinstance(request.prompt, str) else request.prompt
    if not ids:
        raise RequestError("The prompt is empty", param="prompt")
    if not all(type(i) is int for i in ids):
        raise UnsupportedError("More than one prompt is not supported", param="prompt")
    return tuple(ids)


def whole(job: Job, text: str, num_tokens: int, finish: FinishReason, **extra: Any) -> bytes:
    """A body that is not streamed. `extra`: `disaggregated_params`, `prompt_token_ids`, `seam`."""
    params = extra.pop("disaggregated_params", msgspec.UNSET)
    common: dict[str, Any] = {"id": job.id, "created": job.created, "model": job.model, "usage": job.usage(num_tokens)}
    if job.chat:
        message = AssistantMessage(content=text)
        choice = ChatChoice(index=0, message=message, finish_reason=finish, disaggregated_params=params)
        return msgspec.json.encode(ChatCompletion(choices=[choice], **common, **extra))
    plain = CompletionChoice(index=0, text=text, finish_reason=finish, disaggregated_params=params)
    return msgspec.json.encode(Completion(choices=[plain], **common, **extra))


def context_answer(job: Job, ticket: str | None, request_id: int, *, speaks_seam: bool) -> bytes:
    """The first token, and what generation needs to go on; without a ticket there is nothing to go on with."""
    finish: FinishReason = "length" if ticket is None else "not_finished"
    extra: dict[str, Any] = {"prompt_token_ids": list(job.prompt)}
    if ticket is not None:
        extra["disaggregated_params"] = DisaggregatedParams(
            request_type="context_only",
            first_gen_tokens=[token_id(job.prompt, 0)],
            ctx_request_id=request_id,
            disagg_request_id=job.params.disagg_request_id,
            encoded_opaque_state=ticket,
        )
    text = job.text(0, 1)
    if job.seam is not None and speaks_seam:
        extra["seam"] = SeamReply()
        if job.seam.stream:
            last = ticket is None
            job.include_usage = job.seam.include_usage
            events = first_event(job) + event(job, text, 0, 1) + (ending(job, 1) if last else b"")
            extra["seam"] = SeamReply(first_chunk=events.decode(), num_chars_sent=len(text))
    return whole(job, text, 1, finish, **extra)


def first_event(job: Job) -> bytes:
    """What chat begins with."""
    return _frame(job, 0, 0, _chat_chunk(job, Delta(role="assistant", content=""))) if job.chat else b""


def event(job: Job, text: str, start: int, stop: int, finish: FinishReason | None = None) -> bytes:
    """
    :param start: its first token; as in `stop`, counted over all of the answer.
    """
    if job.chat:
        return _frame(job, start, stop, _chat_chunk(job, Delta(content=text) if text else Delta(), finish))
    choice = CompletionChoice(index=0, text=text, finish_reason=finish)
    usage = None if job.include_usage else msgspec.UNSET
    chunk = Completion(id=job.id, created=job.created, model=job.model, choices=[choice], usage=usage)
    return _frame(job, start, stop, chunk)


def ending(job: Job, num_tokens: int) -> bytes:
    """The events behind the last token."""
    has_ended = job.seam is not None and job.seam.has_ended
    events = b"" if has_ended else event(job, "", num_tokens, num_tokens, "length")
    if job.include_usage:
        kind: Any = ChatChunk if job.chat else Completion
        chunk = kind(id=job.id, created=job.created, model=job.model, choices=[], usage=job.usage(num_tokens))
        events += _frame(job, num_tokens, num_tokens, chunk)
    return events + b"data: [DONE]\n\n"


def error_event(error: TrtdisaggError) -> bytes:
    """An error in a stream that has begun."""
    return b"data: " + encode_error(error) + b"\n\n"


def _chat_chunk(job: Job, delta: Delta, finish: FinishReason | None = None) -> ChatChunk:
    choice = ChatChunkChoice(index=0, delta=delta, finish_reason=finish)
    usage = None if job.include_usage else msgspec.UNSET
    return ChatChunk(id=job.id, created=job.created, model=job.model, choices=[choice], usage=usage)


def _frame(job: Job, start: int, stop: int, chunk: Completion | ChatChunk) -> bytes:
    """An event, with what it takes to go on behind it where that was asked for."""
    data = msgspec.json.encode(chunk)
    if job.seam is not None:
        token_ids = [token_id(job.prompt, i) for i in range(start, stop)]
        part = msgspec.json.encode(SeamPart(num_chars(stop), token_ids))
        data = b'%b,"seam":%b}' % (data[:-1], part)
    return b"data: %b\n\n" % data
