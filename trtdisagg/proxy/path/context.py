"""What a context server answered: the first token, and what the generation leg needs of it.

Two dialects. Ours has a `seam`: the first chunk is framed already, generation goes on behind it. Without one, the
server behaves as TensorRT-LLM's: its token is not sent to the client, because generation repeats it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import msgspec

from trtdisagg.protocol.handover import SeamReply
from trtdisagg.protocol.http1 import BadAnswerError

GOES_ON = "not_finished"
GOES_ON_UPSTREAM = ("length", "not_finished")
"""Upstream's servers end a context leg with either."""
FAILED = ("error", "cancelled")
"""Finish reasons of an answer with status 200 that is a failure all the same."""
TICKET_FREE = ("first_gen_tokens", "first_gen_log_probs", "ctx_usage")
"""Of `disaggregated_params`, what stays true when the blocks are not to be fetched."""

_TOKENS = b'"prompt_token_ids":['
_NULL = msgspec.Raw(b"null")
Fields = Mapping[str, msgspec.Raw]


class _Choice(msgspec.Struct):
    finish_reason: str | None
    disaggregated_params: dict[str, msgspec.Raw] | None = None


class _Answer(msgspec.Struct):
    choices: list[_Choice]
    prompt_token_ids: msgspec.Raw = _NULL
    seam: SeamReply | None = None


class FirstToken(msgspec.Struct, kw_only=True, frozen=True):
    """A context leg that succeeded."""

    body: bytes
    """The whole answer."""
    is_last: bool
    """Nothing is left for generation."""
    params: Fields
    prompt_token_ids: msgspec.Raw | None
    seam: SeamReply | None

    @property
    def ticket(self) -> bytes | None:
        """As JSON; None: the server holds nothing for us."""
        return None if self.is_last else self.params.get("encoded_opaque_state")

    @property
    def num_prompt_tokens(self) -> int | None:
        """None: it was not said."""
        return None if self.prompt_token_ids is None else bytes(self.prompt_token_ids).count(b",") + 1

    @property
    def ctx_request_id(self) -> int | None:
        """What the context server calls it."""
        field = self.params.get("ctx_request_id")
        return None if field is None else msgspec.json.decode(field, type=int | None)

    def params_with_ticket(self) -> dict[str, Any]:
        return {**self.params, "request_type": "generation_only"}

    def params_without_ticket(self, disagg_request_id: int) -> dict[str, Any]:
        """For a server that is to compute the prefix itself, because the ticket may have been used up."""
        kept = {name: self.params[name] for name in TICKET_FREE if name in self.params}
        return {**kept, "request_type": "generation_only", "disagg_request_id": disagg_request_id}


def params_of_rest(first: FirstToken | None, token_ids: list[int], disagg_request_id: int) -> dict[str, Any]:
    """`disaggregated_params` for a server that goes on behind tokens that the client has.

    :param first: where a context server made the first of them.
    """
    params = first.params_without_ticket(disagg_request_id) if first is not None else {}
    return {
        **params,
        "request_type": "generation_only",
        "disagg_request_id": disagg_request_id,
        "first_gen_tokens": token_ids,
    }


def decode_first_token(body: bytes, *, seam: bool) -> FirstToken:
    """Decode a context server's answer.

    :param seam: one was sent, so one must come back.
    :raises BadAnswerError: when generation cannot go on from it.
    """
    rest, tokens = _without_tokens(body)
    try:
        answer = _decoder().decode(rest)
    except msgspec.DecodeError as e:
        raise BadAnswerError(f"the context leg's answer cannot be read: {e}") from None
    if len(answer.choices) != 1:
        raise BadAnswerError(f"the context leg has {len(answer.choices)} choices")
    choice = answer.choices[0]
    if choice.finish_reason in FAILED:
        raise BadAnswerError(f"the context leg ended with finish reason {choice.finish_reason!r}")
    if seam and answer.seam is None:
        raise BadAnswerError("the context server did not answer the seam it says it speaks")
    reply = answer.seam if seam else None
    is_last = choice.finish_reason != GOES_ON if reply else choice.finish_reason not in GOES_ON_UPSTREAM
    if not is_last and choice.disaggregated_params is None:
        raise BadAnswerError("the context leg's answer has no disaggregated_params")
    return FirstToken(
        body=body,
        is_last=is_last,
        params=choice.disaggregated_params or {},
        prompt_token_ids=_tokens(answer.prompt_token_ids, tokens),
        seam=reply,
    )


def _without_tokens(body: bytes) -> tuple[bytes, memoryview]:
    """Cut the prompt's tokens out: of a long one they are nearly all of the answer, and reading each of them would cost
    more than all else that is done for the request.

    :returns: the answer with `true` in their place, and they.
    """
    # Within a string of JSON the quotes would have backslashes, so this is the name of a field.
    begin = body.find(_TOKENS) + len(_TOKENS) - 1
    end = body.find(b"]", begin) + 1
    if begin < len(_TOKENS) - 1 or not end:
        return body, memoryview(b"")
    return b"%btrue%b" % (body[:begin], body[end:]), memoryview(body)[begin:end]


def _tokens(field: msgspec.Raw, cut_out: memoryview) -> msgspec.Raw | None:
    """
    :param field: as it was decoded.
    """
    match bytes(field):
        case b"null":
            return None
        case b"true" if cut_out:
            return msgspec.Raw(bytes(cut_out))
    return field  # those that were cut out are a choice's


@functools.cache
def _decoder() -> msgspec.json.Decoder[_Answer]:
    return msgspec.json.Decoder(_Answer)
