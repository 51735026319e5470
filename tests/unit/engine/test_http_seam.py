"""One request over two servers: together they say what one server alone would have said."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.http_face import http_face, make_tokenizer, parse_events
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trtdisagg.protocol.handover import unseal

pytestmark = pytest.mark.anyio

SECRET = b"together"
HEADERS = {"Authorization": "Bearer together"}
PROMPTS: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Hi"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
}
PATHS = list(PROMPTS)


def wish_for(path: str, **fields: Any) -> dict[str, Any]:
    return {"model": "tiny", **PROMPTS[path], **fields}


async def context_leg(script: str, path: str, seam: dict[str, Any] | None = None, **fields: Any) -> Any:
    """What a context server answers."""
    wish = wish_for(path, disaggregated_params={"request_type": "context_only", "disagg_request_id": 2**41}, **fields)
    async with http_face(script, secret=SECRET) as face:
        status, body = await face.post(path, wish | ({"seam": seam} if seam else {}), headers=HEADERS)
        assert status == 200, body
        return body


def generation_wish(path: str, context: Any, **fields: Any) -> dict[str, Any]:
    """The generation leg as a proxy makes it of the context server's answer."""
    params = {**context["choices"][0]["disaggregated_params"], "request_type": "generation_only"}
    wish = wish_for(path, disaggregated_params=params, **fields)
    return wish | {"prompt_token_ids" if "chat" in path else "prompt": context["prompt_token_ids"]}


async def over_two_servers(script: str, path: str, **fields: Any) -> str:
    """The stream that a client gets over two servers."""
    seam = {"id": "cmpl-1", "created": 5, "stream": True, "include_usage": True}
    context = await context_leg(script, path, seam, **fields)
    reply = context["seam"]
    if context["choices"][0]["finish_reason"] != "not_finished":
        return str(reply["first_chunk"])
    wish = generation_wish(path, context, **fields, stream=True, stream_options={"include_usage": True})
    wish["seam"] = {**seam, "num_chars_sent": reply.get("num_chars_sent", 0)}
    async with (
        http_face(script, secret=SECRET) as face,
        face.session.post(path, json=wish, headers=HEADERS) as answer,
    ):
        assert answer.status == 200, await answer.text()
        return str(reply["first_chunk"] + await answer.text())


async def on_one_server(script: str, path: str, **fields: Any) -> str:
    wish = wish_for(path, **fields, stream=True, stream_options={"include_usage": True})
    wish["seam"] = {"id": "cmpl-1", "created": 5, "stream": True, "include_usage": True}
    async with http_face(script) as face, face.session.post(path, json=wish) as answer:
        return await answer.text()


def summary(stream: str) -> Any:
    """What a client makes of a stream."""
    events = parse_events(stream)
    assert events[-1] == "data: [DONE]"
    choices = [c for e in events[:-1] for c in e["choices"]]
    text = "".join(c.get("text") or c.get("delta", {}).get("content") or "" for c in choices)
    roles = [c["delta"]["role"] for c in choices if "role" in c.get("delta", {})]
    reasons = [c["finish_reason"] for c in choices if c["finish_reason"]]
    return text, roles, reasons, events[-2]["usage"], {(e["id"], e["created"]) for e in events[:-1]}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("script", "fields"),
    [
        ("Hello world", {}),
        ("Hello world", {"max_tokens": 1}),
        ("Hello world", {"max_tokens": 2}),
        ("", {}),  # the first token ends it
        ("🎉 cut by the seam", {}),
        ("END at once", {"stop": "E"}),
        ("END over the seam", {"stop": "END"}),
        ("EN is no end", {"stop": "END"}),
        ("END is said", {"stop": "END", "include_stop_str_in_output": True}),
    ],
)
async def test_two_servers_say_what_one_says(path: str, script: str, fields: dict[str, Any]) -> None:
    stream = await over_two_servers(script, path, **fields)
    assert summary(stream) == summary(await on_one_server(script, path, **fields))


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(script=st.text("ab🎉é", max_size=6), stop=st.text("ab🎉", min_size=1, max_size=3))
async def test_two_servers_agree_on_any_text_and_stop(script: str, stop: str) -> None:
    stream = await over_two_servers(script, PATHS[0], stop=stop)
    assert summary(stream) == summary(await on_one_server(script, PATHS[0], stop=stop))


async def test_context_answer() -> None:
    context = await context_leg("Hello", PATHS[0])
    choice = context["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("H", "not_finished")
    assert context["prompt_token_ids"] == make_tokenizer().encode("Hi")
    assert context["usage"]["completion_tokens"] == 1
    assert "seam" not in context
    params = choice["disaggregated_params"]
    assert params["request_type"] == "context_only"
    assert params["first_gen_tokens"] == make_tokenizer().encode("H")
    assert (params["ctx_request_id"], params["disagg_request_id"]) == (1, 2**41)
    assert unseal(params["encoded_opaque_state"], SECRET).request_id == 1


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("script", "reason"), [("", "stop"), ("ab", "length")])
async def test_what_ends_at_the_first_token_has_no_ticket(path: str, script: str, reason: str) -> None:
    context = await context_leg(script, path, max_tokens=1)
    assert context["choices"][0]["finish_reason"] == reason
    assert "disaggregated_params" not in context["choices"][0]


async def test_stop_string_at_the_first_token_gives_the_blocks_back() -> None:
    wish = wish_for(PATHS[0], stop="H", disaggregated_params={"request_type": "context_only"})
    async with http_face("Hello") as face:
        _, body = await face.post(PATHS[0], wish)
        assert (body["choices"][0]["text"], body["choices"][0]["finish_reason"]) == ("", "stop")
        assert face.executor.cancelled == [1]


async def test_first_chunk_is_only_what_can_be_said() -> None:
    seam = {"id": "x", "created": 5, "stream": True}
    reply = (await context_leg("END", PATHS[0], seam, stop="END"))["seam"]
    [event] = parse_events(reply["first_chunk"])
    assert (event["choices"][0]["text"], event["seam"]) == ("", [0, make_tokenizer().encode("E")])
    reply = (await context_leg("END", PATHS[1], seam, stop="END"))["seam"]
    assert [e["choices"][0]["delta"] for e in parse_events(reply["first_chunk"])] == [
        {"role": "assistant", "content": ""},
        {},
    ]
    reply = (await context_leg("no", PATHS[0], seam | {"stream": False}))["seam"]
    assert reply == {}


@pytest.mark.parametrize("path", PATHS)
async def test_generation_for_a_proxy_without_a_seam_says_all(path: str) -> None:
    context = await context_leg("Hello", path)
    async with http_face("Hello", secret=SECRET) as face:
        wish = generation_wish(path, context)
        _, body = await face.post(path, wish, headers=HEADERS)
        choice = body["choices"][0]
        assert (choice["text"] if "text" in choice else choice["message"]["content"]) == "Hello"
        assert body["usage"]["completion_tokens"] == 6
        request = face.executor.requests[0]
        assert request.ticket is not None
        assert request.output_token_ids == make_tokenizer().encode("H")
        async with face.session.post(path, json={**wish, "stream": True}, headers=HEADERS) as answer:
            events = parse_events(await answer.text())
        choices = [e["choices"][0] for e in events[:-1]]
        assert "".join(c["text"] if "text" in c else c["delta"].get("content", "") for c in choices) == "Hello"


async def test_generation_goes_on_from_many_tokens_without_a_ticket() -> None:
    params = {"request_type": "generation_only", "first_gen_tokens": make_tokenizer().encode("Hell")}
    seam = {"id": "x", "created": 5, "stream": True, "num_chars_sent": 3}
    async with http_face("Hello") as face:
        events = await face.events(PATHS[0], wish_for(PATHS[0], stream=True, disaggregated_params=params, seam=seam))
        assert "".join(e["choices"][0]["text"] for e in events[:-1]) == "lo"
        assert face.executor.requests[0].ticket is None


async def test_tokens_that_hold_a_stop_string_need_no_engine() -> None:
    params = {"request_type": "generation_only", "first_gen_tokens": make_tokenizer().encode("END")}
    async with http_face("nothing") as face:
        body = await face.complete(stop="END", disaggregated_params=params)
        assert (body["choices"][0]["text"], body["choices"][0]["finish_reason"]) == ("", "stop")
        assert not face.executor.requests


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"disaggregated_params": {"request_type": "generation_only"}}, "needs `first_gen_tokens`"),
        ({"disaggregated_params": {"request_type": "context_only"}, "stream": True}, "cannot be streamed"),
        ({"disaggregated_params": {"request_type": "both"}}, "request_type"),
        ({"disaggregated_params": {"request_type": "context_only", "x": 1}}, "Unknown field `disaggregated_params.x`"),
        ({"seam": {"wire_version": 99, "id": "x", "created": 1}}, "another wire version"),
        (
            {
                "disaggregated_params": {
                    "request_type": "generation_only",
                    "first_gen_tokens": [5],
                    "encoded_opaque_state": "bm90IHNlYWxlZA==",
                }
            },
            "not made by a server of this cluster",
        ),
    ],
)
async def test_bad_handovers(fields: dict[str, Any], message: str) -> None:
    async with http_face() as face:
        status, body = await face.post(PATHS[0], wish_for(PATHS[0], **fields))
        assert (status, body["error"]["type"]) == (400, "invalid_request_error")
        assert message in body["error"]["message"]
        assert not face.executor.requests


async def test_ticket_of_another_cluster_is_refused() -> None:
    context = await context_leg("Hello", PATHS[0])
    async with http_face("Hello", secret=b"another") as face:
        headers = {"Authorization": "Bearer another"}
        status, body = await face.post(PATHS[0], generation_wish(PATHS[0], context), headers=headers)
        assert status == 400
        assert "not made by a server of this cluster" in body["error"]["message"]


async def test_the_engine_learns_who_will_come_for_the_kv() -> None:
    wish = wish_for(PATHS[0], disaggregated_params={"request_type": "context_only"})
    wish["seam"] = {"id": "cmpl-1", "created": 5, "generation": "generation-1"}
    async with http_face() as face:
        status, body = await face.post(PATHS[0], wish)
        assert status == 200, body
        assert face.executor.requests[0].reader == "generation-1"
