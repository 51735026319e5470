"""What the scripted servers answer: as ours do, to a proxy that negotiates our additions, or as all others do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from trtdisagg.bench.proxy.requests import MODEL
from trtdisagg.protocol.answers import ModelCard, ModelList, Usage
from trtdisagg.protocol.control import Member
from trtdisagg.protocol.handover import DisaggregatedParams, SeamReply, Ticket, seal
from trtdisagg.protocol.spec import Role

if TYPE_CHECKING:
    from trtdisagg._load import Script

BYTES_PER_TOKEN = 4
"""Of text: our context servers answer with the tokens of the prompt."""
NUM_BYTES = (0, 16 * 1024, 128 * 1024)
"""A server has an answer for bodies from each of these on."""
_STAMP = "~0123456789abcdef"
"""The text of an event; its place is taken by the time at which it is sent."""
_COUNT = 888_888
_ID, _CREATED = "chatcmpl-0123456789abcdef01234567", 1_700_000_000
_SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def make_script(role: Role, *, ours: bool) -> Script:
    """For one server.

    :param ours: it is one of ours, and says so; otherwise it answers every dialect that others speak at once.
    """
    from trtdisagg._load import Script

    script = Script()
    for path, body in _pages(role, ours=ours).items():
        script.add_page(path, http_answer(body))
    if role == "generation":
        script.add_answer(0, http_answer(_encode(_whole())))
        _set_events(script, ours=ours)
        return script
    for num_bytes in NUM_BYTES:
        whole = _context(num_bytes * 2 or 64, ours=ours, streamed=False)
        streamed = _context(num_bytes * 2 or 64, ours=ours, streamed=True)
        script.add_answer(num_bytes, http_answer(_encode(whole)), http_answer(_encode(streamed)))
    return script


def http_answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def _pages(role: Role, *, ours: bool) -> dict[str, bytes]:
    models = _encode(ModelList(data=[ModelCard(id=MODEL, created=_CREATED)]))
    pages = {"/health": b"{}", "/health_generate": b"{}", "/v1/models": models, "/kv/release": b"{}"}
    if ours:
        member = Member(
            name=f"{role}-0",
            role=role,
            model=MODEL,
            url="127.0.0.1:0",
            incarnation=role,
            wire_version=1,
            max_seq_len=131_072,
            num_blocks=1 << 20,
            tokens_per_block=32,
            max_batch_size=2048,
        )
        pages["/server_info"] = _encode(member)
    else:
        pages["/get_model_info"] = pages["/model_info"] = _encode({"model_path": MODEL, "is_generation": True})
        pages["/get_server_info"] = pages["/server_info"] = _encode({"served_model_name": MODEL, "dp_size": 1})
    return pages


def _whole(**choice: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "The second of May, when the others are there."}
    return {
        "id": _ID,
        "object": "chat.completion",
        "created": _CREATED,
        "model": MODEL,
        "choices": [{"index": 0, "finish_reason": "stop", **choice, "message": message, "logprobs": None}],
        "usage": Usage(prompt_tokens=25, completion_tokens=16, total_tokens=41),
    }


def _context(num_bytes: int, *, ours: bool, streamed: bool) -> dict[str, Any]:
    tokens = [100 + i * 7919 % 49_000 for i in range(num_bytes // BYTES_PER_TOKEN)]
    params = DisaggregatedParams(
        request_type="context_only",
        first_gen_tokens=[4711],
        ctx_request_id=1,
        encoded_opaque_state=_ticket(len(tokens)),
        ctx_usage=Usage(prompt_tokens=len(tokens), completion_tokens=1, total_tokens=len(tokens) + 1),
    )
    answer = _whole(finish_reason="not_finished" if ours else "length", disaggregated_params=params)
    if not ours:
        return {**answer, "kv_transfer_params": {"do_remote_prefill": True, "remote_block_ids": list(range(8))}}
    first_chunk = b"data: %b\n\n" % _encode(_chunk("He")) if streamed else b""
    seam = SeamReply(num_chars_sent=2, first_chunk=first_chunk.decode()) if streamed else SeamReply()
    return {**answer, "prompt_token_ids": tokens, "seam": seam}


def _ticket(num_tokens: int) -> str:
    blocks = list(range(1000, 1000 + num_tokens // 32 + 1))
    ticket = Ticket(
        server="context-0",
        incarnation="0123456789abcdef",
        host="127.0.0.1",
        port=40_000,
        request_id=1 << 60,
        num_tokens=num_tokens,
        blocks=blocks,
        lease_ms=30_000,
        text_hash=bytes(16),
    )
    return seal(ticket, b"")


def _chunk(text: str, **extra: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": None, "delta": {"content": text}, "logprobs": None}
    chunk = {"id": _ID, "object": "chat.completion.chunk", "created": _CREATED, "model": MODEL}
    return {**chunk, "choices": [choice], **extra}


def _set_events(script: Script, *, ours: bool) -> None:
    event = b"data: %b\n\n" % _encode(_chunk(_STAMP, **({"seam": [_COUNT, [4711]]} if ours else {})))
    before, between = event.split(_STAMP.encode())
    options: dict[str, Any] = {"last": b"data: [DONE]\n\n"}
    if ours:
        between, after = between.split(b"%d" % _COUNT)
        options |= {"after": after, "num_chars_before": 2, "chars_per_event": len(_STAMP)}
    script.set_events(_SSE, before, between, **options)


_encode = msgspec.json.Encoder().encode
