"""A client's request: decoded and checked once, then spliced into the bodies of its legs.

Values are looked at only for the check; what goes to the servers are the client's own bytes. What the legs answer with
is not known here (context.py).
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from typing import Any

import msgspec

from trtdisagg.errors import RequestError
from trtdisagg.protocol.decoding import decode_request
from trtdisagg.protocol.handover import DisaggregatedParams, Seam
from trtdisagg.protocol.indivisible import why_indivisible
from trtdisagg.protocol.openai import ChatRequest, CompletionRequest
from trtdisagg.proxy.ids import make_id
from trtdisagg.proxy.path.sizes import Size, size_of

NOT_FROM_CLIENTS = ("disaggregated_params", "seam", "prompt_token_ids")

SERVER_SAYS_FIRST_S = 1.0
"""When the client's deadline has passed: after that the proxy does. Servers of others do not know of it."""
MIN_TIMEOUT_S = 0.001
"""With nothing left it is the server that says so."""

_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Incoming(msgspec.Struct, kw_only=True, frozen=True):
    """One request of a client, with what is fixed for all its legs."""

    chat: bool
    model: str
    stream: bool
    include_usage: bool
    continuous_usage_stats: bool
    body: bytes
    """As the client sent it."""
    fields: Mapping[str, msgspec.Raw]
    """The same, field by field, not decoded."""
    id: str
    created: int
    seed: int | None
    """Ours, where the client gave none."""
    request_id: str
    is_indivisible: bool
    """One server does it all."""
    size: Size = Size()
    priority: int = 0
    """Higher is admitted sooner."""
    read_token_ids: msgspec.Raw | None = None
    """The prompt's, where it was read for routing: our servers need not read it again."""
    return_token_ids: bool
    """The client gets the prompt's, too."""
    timeout_s: float | None
    """For all of it."""
    arrived: float
    """On the monotonic clock."""

    @property
    def due(self) -> float:
        """When the client's own deadline is over, on the monotonic clock."""
        return math.inf if self.timeout_s is None else self.arrived + self.timeout_s

    @property
    def last_due(self) -> float:
        """When it is over, even if no server says so."""
        return self.due + SERVER_SAYS_FIRST_S

    @property
    def path(self) -> str:
        return "/v1/chat/completions" if self.chat else "/v1/completions"

    def alone_body(self, *, seam: bool) -> bytes:
        """For a server that does it all."""
        fields = self._fields(ours=seam)
        if seam:
            self._add_seam(fields)
        return _encode(fields)

    def context_body(self, disagg_request_id: int, *, seam: bool, generation: str | None = None) -> bytes:
        """For the context leg, which is never streamed.

        :param generation: name of the server that is to go on; told with the seam.
        """
        fields = self._fields(ours=seam)
        fields.pop("stream_options", None)
        fields["stream"] = False
        fields["disaggregated_params"] = DisaggregatedParams(
            request_type="context_only", disagg_request_id=disagg_request_id
        )
        if seam:
            self._add_seam(fields, generation=generation)
        return _encode(fields)

    def generation_body(
        self,
        params: Mapping[str, Any],
        *,
        prompt_token_ids: msgspec.Raw | None,
        num_chars_sent: int | None,
        has_ended: bool = False,
    ) -> bytes:
        """For a server that goes on behind tokens that are there already.

        :param params: `disaggregated_params` of the leg.
        :param prompt_token_ids: what another server made of the prompt; None: nothing yet.
        :param num_chars_sent: of a stream; None: the leg has no seam.
        :param has_ended: the client of a stream has its finish reason.
        """
        fields = self._fields(ours=num_chars_sent is not None)
        if prompt_token_ids is not None:
            fields["prompt_token_ids" if self.chat else "prompt"] = prompt_token_ids
            if self.chat and num_chars_sent is not None:
                fields["messages"] = ()  # ours needs the tokens alone
        fields["disaggregated_params"] = params
        if num_chars_sent is not None:
            self._add_seam(fields, num_chars_sent=num_chars_sent if self.stream else 0, has_ended=has_ended)
        return _encode(fields)

    def _fields(self, *, ours: bool) -> dict[str, Any]:
        """The client's; for ours with what is left of its time, and the prompt as it was read."""
        fields: dict[str, Any] = dict(self.fields)
        if ours and self.timeout_s is not None:
            left_s = self.timeout_s - (time.monotonic() - self.arrived)
            fields["timeout"] = max(left_s, MIN_TIMEOUT_S)
        if ours and self.read_token_ids is not None and not self.is_indivisible:  # which may ask for its own words
            if self.chat:
                fields["messages"] = ()
            fields["prompt_token_ids" if self.chat else "prompt"] = self.read_token_ids
        return fields

    def _add_seam(self, fields: dict[str, Any], **more: Any) -> None:
        fields["seam"] = Seam(
            id=self.id,
            created=self.created,
            stream=self.stream,
            include_usage=self.include_usage,
            continuous_usage_stats=self.continuous_usage_stats,
            **more,
        )
        if self.seed is not None:
            fields["seed"] = self.seed


def decode_incoming(
    body: bytes, *, chat: bool, request_id: str, timeout_s: float | None = None, arrived: float = 0.0
) -> Incoming:
    """Decode and check a client's body.

    :param timeout_s: where the body says none.
    :param arrived: when the request came, on the monotonic clock.
    :raises RequestError: saying which field is wrong and why.
    """
    request: ChatRequest | CompletionRequest
    request = decode_request(body, ChatRequest) if chat else decode_request(body, CompletionRequest)
    for name in NOT_FROM_CLIENTS:
        if getattr(request, name) is not None:
            raise RequestError(f"`{name}` is not for clients; leave it out", param=name)
    fields = _decode_fields(body)
    for name in NOT_FROM_CLIENTS:
        fields.pop(name, None)
    options = request.stream_options
    return Incoming(
        chat=chat,
        model=request.model,
        stream=request.stream,
        include_usage=options is not None and options.include_usage,
        continuous_usage_stats=options is not None and options.continuous_usage_stats,
        body=body,
        fields=fields,
        id=("chatcmpl-" if chat else "cmpl-") + make_id(),
        created=int(time.time()),
        seed=random.getrandbits(63) if request.seed is None else None,
        request_id=request_id,
        is_indivisible=why_indivisible(request) is not None,
        size=size_of(request, len(body)),
        priority=request.priority or 0,
        return_token_ids=request.return_token_ids,
        timeout_s=request.timeout or timeout_s,
        arrived=arrived,
    )
