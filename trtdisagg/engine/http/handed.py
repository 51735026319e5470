"""What comes with the second leg of a handover, and what a leg can do at all."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

import msgspec

from trtdisagg.engine.http import logprobs
from trtdisagg.engine.http.sampling import Wish, num_shown_logprobs
from trtdisagg.engine.request import TokenLogprob
from trtdisagg.errors import HandoverError, RequestError
from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.answers import Usage
from trtdisagg.protocol.handover import DisaggregatedParams, Ticket, unseal
from trtdisagg.protocol.indivisible import why_indivisible
from trtdisagg.protocol.logprobs import HandedLogprobs

_Kind = TypeVar("_Kind")

_PARAM = "disaggregated_params"
_NOT_ENABLED = (
    "Disaggregated serving is not enabled, please check the configuration. "
    "Set `cache_transceiver_config.backend` for this server, to DEFAULT for example."
)


class Handed(NamedTuple):
    """What another server has done already."""

    token_ids: list[int] = []
    logprobs: list[TokenLogprob] = []
    ticket: Ticket | None = None
    num_cached_tokens: int | None = None


def check_leg(wish: Wish, *, is_enabled: bool) -> None:
    """
    :param is_enabled: this server can hand over and take over.
    :raises RequestError: when the request cannot be served as the leg that it is said to be.
    """
    if wish.seam and wish.seam.wire_version != WIRE_VERSION:
        raise RequestError(f"`seam` has another wire version than {WIRE_VERSION}", param="seam")
    params = wish.disaggregated_params
    if params is None or params.request_type == "context_and_generation":
        return
    goes_on = params.request_type == "generation_only"
    if not is_enabled and not (goes_on and wish.seam and params.encoded_opaque_state is None):
        raise RequestError(_NOT_ENABLED, param=_PARAM)
    if why := why_indivisible(wish):
        raise RequestError(f"{why}, which takes one server for the whole request", param=_PARAM)
    if params.request_type == "context_only" and wish.stream:
        raise RequestError("A context_only request cannot be streamed", param="stream")
    if goes_on and not params.first_gen_tokens and (params.first_gen_tokens is None or wish.seam is None):
        raise RequestError("A generation_only request needs `first_gen_tokens`", param=_PARAM)


def take_over(wish: Wish, secret: bytes) -> Handed:
    """
    :param secret: the cluster's, with which tickets are sealed.
    :raises RequestError: when what another server is said to have done cannot be read.
    """
    params = wish.disaggregated_params
    if params is None or params.request_type != "generation_only":
        return Handed()
    token_ids = params.first_gen_tokens or []
    return Handed(token_ids, _logprobs(wish, params, token_ids), _ticket(params, secret), _num_cached(params))


def ticket_in(body: bytes, secret: bytes) -> Ticket | None:
    """The ticket of a request that is refused, whatever else is wrong with its body."""
    try:
        carrier = msgspec.json.decode(body, type=_Carrier)
        return _ticket(carrier.disaggregated_params, secret) if carrier.disaggregated_params else None
    except (msgspec.DecodeError, UnicodeDecodeError, RequestError):
        return None


class _Carrier(msgspec.Struct):
    disaggregated_params: DisaggregatedParams | None = None


def _logprobs(wish: Wish, params: DisaggregatedParams, token_ids: list[int]) -> list[TokenLogprob]:
    num = num_shown_logprobs(wish)
    if num is None or params.first_gen_log_probs is None:
        return []
    handed = _convert(params.first_gen_log_probs, HandedLogprobs, "first_gen_log_probs")
    return logprobs.take_over(token_ids, handed, num)


def _num_cached(params: DisaggregatedParams) -> int | None:
    if params.ctx_usage is None:
        return None
    return _convert(params.ctx_usage, Usage, "ctx_usage").prompt_tokens_details.cached_tokens


def _convert(value: Any, kind: type[_Kind], name: str) -> _Kind:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as e:
        raise RequestError(f"In `{name}`: {e}", param=_PARAM) from None


def _ticket(params: DisaggregatedParams, secret: bytes) -> Ticket | None:
    if params.encoded_opaque_state is None:
        return None
    try:
        return unseal(params.encoded_opaque_state, secret)
    except HandoverError as e:
        raise RequestError(f"In `encoded_opaque_state`: {e}", param=_PARAM) from e
