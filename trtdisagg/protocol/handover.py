"""What makes a context leg and a generation leg one request.

`DisaggregatedParams` is TensorRT-LLM's own form, so that either side's proxy drives the other's servers.
`Seam` is what two trtdisagg processes add: negotiated, never required.

    proxy -> context     disaggregated_params{context_only, disagg_request_id}   seam{id, created, generation}
    context -> proxy     first token, prompt_token_ids, disaggregated_params{ticket}, seam_reply{first_chunk, ...}
    proxy -> generation  disaggregated_params{generation_only, first token, ticket}   seam{id, created, chars sent}
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any, Literal

import msgspec

from trtdisagg.errors import HandoverError
from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.parallel import Parallel

RequestType = Literal["context_and_generation", "context_only", "generation_only"]


class DisaggregatedParams(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """TensorRT-LLM's `disaggregated_params`, in requests and in `choices[0]` of a context server's answer.

    Fields that upstream has and this version does not use are listed so that they are accepted.
    """

    request_type: RequestType
    first_gen_tokens: list[int] | None = None
    """What is generated already: the context leg's one token, or all that a broken stream has said."""
    first_gen_log_probs: Any = None
    ctx_request_id: int | None = None
    disagg_request_id: int | None = None
    encoded_opaque_state: str | None = None
    """The ticket: `seal(Ticket)`."""
    draft_tokens: list[int] | None = None
    ctx_dp_rank: int | None = None
    ctx_info_endpoint: str | None = None
    schedule_style: str | None = None
    ctx_usage: Any = None


class Seam(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """Sent by our proxy in the body field `seam` of both legs; a server that gets none behaves as upstream's do.

    With it, both legs answer under one id, and the generation leg says only what the client has not yet been sent.
    """

    wire_version: int = WIRE_VERSION
    id: str
    """The id the client sees: `cmpl-...` or `chatcmpl-...`."""
    created: int
    """Unix seconds, the same in every chunk."""
    stream: bool = False
    """The client asked for a stream (the context leg itself is never streamed)."""
    include_usage: bool = False
    """The client's `stream_options.include_usage`, for chunks that the context server frames: its own leg has none."""
    continuous_usage_stats: bool = False
    """Likewise."""
    num_chars_sent: int = 0
    """Characters of the answer that the client already has; generation goes on behind them."""
    has_ended: bool = False
    """The client has had the finish reason of its stream: only usage, where it is wanted, and `[DONE]` are to come."""
    generation: str | None = None
    """In the context leg: name of the server that the generation leg will most likely go to."""


class SeamReply(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """In the context server's answer, field `seam`, when the request had a seam."""

    wire_version: int = WIRE_VERSION
    num_chars_sent: int = 0
    """Characters of the answer that `first_chunk` says; calls of tools are counted as the model wrote them."""
    first_chunk: str | None = None
    """Server-sent events to pass to the client as they are; when nothing is to come, up to and with `[DONE]`."""


class SeamPart(msgspec.Struct, frozen=True, array_like=True):
    """In each event of a stream that was asked for with a seam, field `seam`: what it takes to go on behind it.

    Not in streams that take one server (`why_indivisible`). Another server goes on from the prompt, the tokens of all
    parts so far (`first_gen_tokens`, none or many) and the last `num_chars_sent`, whatever stop strings, guides or
    calls of tools there are. Since a context server's first chunk has its token in a part, these are the tokens that
    the broken leg was asked with and those of its own parts; `first_gen_log_probs` and `ctx_usage` stay as they were.
    """

    num_chars_sent: int
    """Characters of the answer that are said by now, from its very beginning; counted as in `SeamReply`."""
    token_ids: list[int]
    """Tokens behind those of the part before, and behind those the leg was asked with: also those whose text is held
    back. Where log probabilities are shown, those alone that are shown by now."""


class KvShape(msgspec.Struct, kw_only=True, frozen=True):
    """The KV pool of one rank."""

    model: str
    """Fingerprint of the weights, not the served name."""
    dtype: str
    num_layers: int
    """That the rank has."""
    num_kv_heads: int
    """That the rank has."""
    head_dim: int
    tokens_per_block: int


class KvLayout(msgspec.Struct, kw_only=True, frozen=True):
    """The KV cache of a server over all its ranks: what two servers must agree on, and what layout arithmetic needs."""

    model: str
    """Fingerprint of the weights, not the served name."""
    dtype: str
    num_layers: int
    """Of the model."""
    num_kv_heads: int
    """Of the model."""
    head_dim: int
    tokens_per_block: int
    num_blocks: int
    """Of each rank's pool."""
    parallel: Parallel = Parallel()


class Ticket(msgspec.Struct, kw_only=True, frozen=True):
    """Whose blocks, where, which layout, until when."""

    wire_version: int = WIRE_VERSION
    server: str
    incarnation: str
    """Unique for each start of the server: a restarted server on the same address is never taken for the old one."""
    host: str
    port: int
    """Where the server's peer stream listens."""
    request_id: int
    """Names the held blocks on the context server."""
    num_tokens: int
    """KV tokens held: the prompt's length."""
    blocks: list[int]
    """Block indices in the context server's pool, in token order."""
    lease_ms: int
    """From the moment the ticket was made; renewed over the peer stream."""
    dp_rank: int = 0
    """With attention data parallelism: the ranks of which tp_rank hold the blocks."""
    text_hash: bytes = b""
    """Of the tokens that the KV is of (`text.block_hash`); empty: not told."""


class Release(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /kv/release` to a context server: no generation leg will come with this ticket."""

    ticket: str
    """As in `encoded_opaque_state`."""


def seal(ticket: Ticket, secret: bytes) -> str:
    """Encode a ticket as base64 of a 32 byte keyed BLAKE2b digest followed by msgpack.

    :param secret: the cluster's secret; empty where servers listen on loopback only.
    """
    body = msgspec.msgpack.encode(ticket)
    return base64.b64encode(_digest(body, secret) + body).decode()


def unseal(text: str, secret: bytes) -> Ticket:
    """Decode a ticket and verify that a server of this cluster made it.

    :raises HandoverError: when it was not, or is of another wire version.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as e:
        raise HandoverError("the ticket is not base64") from e
    digest, body = raw[:32], raw[32:]
    if not hmac.compare_digest(digest, _digest(body, secret)):
        raise HandoverError("the ticket was not made by a server of this cluster")
    try:
        ticket = msgspec.msgpack.decode(body, type=Ticket)
    except msgspec.DecodeError as e:
        raise HandoverError(f"the ticket cannot be read: {e}") from e
    if ticket.wire_version != WIRE_VERSION:
        raise HandoverError(f"the ticket has wire version {ticket.wire_version}, this server speaks {WIRE_VERSION}")
    return ticket


def _digest(body: bytes, secret: bytes) -> bytes:
    return hashlib.blake2b(body, key=hashlib.blake2b(secret).digest(), digest_size=32).digest()
