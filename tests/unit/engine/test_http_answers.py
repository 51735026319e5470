"""Answers to requests that one server does alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers.http_face import SPEC, http_face, make_tokenizer

from trtdisagg import __version__
from trtdisagg.protocol.kv_events import Created, KvEvent, Stored, StoredBlock

pytestmark = pytest.mark.anyio

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
NUM_PROMPT = len(make_tokenizer().encode("Hi"))


def text_of(events: list[Any]) -> str:
    choices = [c for e in events[:-1] for c in e["choices"]]
    return "".join(c["text"] if "text" in c else c["delta"].get("content", "") for c in choices)


async def test_completion() -> None:
    async with http_face("Hello") as face:
        body = await face.complete(max_tokens=10)
        assert body["choices"] == [
            {"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
        ]
        num_tokens = len(make_tokenizer().encode("Hello")) + 1  # the end-of-sequence token is computed, so it counts
        assert body["usage"] == {
            "prompt_tokens": NUM_PROMPT,
            "completion_tokens": num_tokens,
            "total_tokens": NUM_PROMPT + num_tokens,
            "prompt_tokens_details": {"cached_tokens": 1},
        }
        assert (body["object"], body["model"], body["id"][:5]) == ("text_completion", "tiny", "cmpl-")


async def test_chat() -> None:
    async with http_face("Hello") as face:
        status, body = await face.post("/v1/chat/completions", CHAT)
        assert status == 200
        assert body["choices"][0]["message"] == {"role": "assistant", "content": "Hello"}
        assert (body["object"], body["id"][:9]) == ("chat.completion", "chatcmpl-")
        prompt = make_tokenizer().decode(face.executor.requests[0].prompt_token_ids, skip_special_tokens=False)
        assert prompt == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


async def test_streamed_completion() -> None:
    async with http_face("né🎉") as face:
        events = await face.events("/v1/completions", {"model": "tiny", "prompt": "Hi", "stream": True})
        assert events[-1] == "data: [DONE]"
        assert text_of(events) == "né🎉"
        assert [e["choices"][0]["finish_reason"] for e in events[:-1]] == [None, None, None, "stop"]
        assert len({e["id"] for e in events[:-1]}) == 1
        assert "usage" not in events[0]


async def test_streamed_chat() -> None:
    async with http_face("ab") as face:
        events = await face.events("/v1/chat/completions", {**CHAT, "stream": True})
        assert [e["choices"][0]["delta"] for e in events[:-1]] == [
            {"role": "assistant", "content": ""},
            {"content": "a"},
            {"content": "b"},
            {},
        ]
        assert events[-2]["choices"][0]["finish_reason"] == "stop"
        assert events[0]["object"] == "chat.completion.chunk"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_usage_in_a_stream(path: str) -> None:
    prompt = {"prompt": "Hi"} if "chat" not in path else {"messages": CHAT["messages"]}
    options = {"include_usage": True}
    async with http_face("ab") as face:
        events = await face.events(path, {"model": "tiny", **prompt, "stream": True, "stream_options": options})
        assert all(e["usage"] is None for e in events[:-2])
        assert events[-2]["choices"] == []
        assert events[-2]["usage"]["completion_tokens"] == 3
        options = {"include_usage": True, "continuous_usage_stats": True}
        events = await face.events(path, {"model": "tiny", **prompt, "stream": True, "stream_options": options})
        counts = [e["usage"]["completion_tokens"] for e in events[:-1] if e["usage"]]
        assert counts == [1, 2, 3, 3]


async def test_tokens_that_came_together_are_one_chunk() -> None:
    wish = {"model": "tiny", "prompt": "Hi", "stream": True, "max_tokens": 6}
    async with (
        http_face("abcdef", steps_itself=False) as face,
        face.reading("/v1/completions", wish, num_tokens=3) as stream,
    ):
        assert (await stream.next())["choices"][0]["text"] == "abc"
        assert (await stream.after(3))["choices"][0]["text"] == "def"
        assert await stream.next() == "data: [DONE]"


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("Hi", make_tokenizer().encode("Hi")),
        ([5, 6], [5, 6]),
        ([[5, 6]], [5, 6]),
        (["Hi"], make_tokenizer().encode("Hi")),
    ],
)
async def test_forms_of_a_prompt(prompt: object, ids: list[int]) -> None:
    async with http_face("a") as face:
        await face.complete(prompt)
        assert face.executor.requests[0].prompt_token_ids == ids


async def test_long_prompt_is_tokenized_beside_the_loop() -> None:
    async with http_face("a", spec=msgspec.structs.replace(SPEC, max_seq_len=10_000)) as face:
        await face.complete("x" * 6000)
        assert len(face.executor.requests[0].prompt_token_ids) == 6000


async def test_sampling_parameters_reach_the_engine() -> None:
    async with http_face("ab") as face:
        await face.complete(
            temperature=0.5,
            top_k=-1,
            top_p=0.9,
            seed=7,
            min_tokens=1,
            ignore_eos=True,
            stop_token_ids=[9],
            max_tokens=2,
        )
        sampling = face.executor.requests[0].sampling
        assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed) == (0.5, 0, 0.9, 7)
        assert (sampling.min_tokens, sampling.ignore_eos, sampling.stop_token_ids) == (1, True, {9})
        await face.complete()
        await face.complete()
        first, second = (r.sampling for r in face.executor.requests[1:])
        assert (first.temperature, first.top_k, first.top_p, first.max_tokens) == (1.0, 0, 1.0, 16)
        assert first.seed != second.seed


async def test_max_tokens_without_a_wish_is_what_fits() -> None:
    async with http_face("a") as face:
        await face.post("/v1/chat/completions", CHAT)
        request = face.executor.requests[0]
        assert request.sampling.max_tokens == SPEC.max_seq_len - len(request.prompt_token_ids)
        await face.complete([5] * 195)
        assert face.executor.requests[1].sampling.max_tokens == 5
    async with http_face("a", spec=msgspec.structs.replace(SPEC, num_blocks=10)) as face:
        await face.post("/v1/chat/completions", {**CHAT, "max_completion_tokens": 3})
        await face.post("/v1/chat/completions", CHAT)
        request = face.executor.requests[1]
        assert face.executor.requests[0].sampling.max_tokens == 3
        assert len(request.prompt_token_ids) + request.sampling.max_tokens == 10 * 8 + 1


# --- where an answer ends -------------------------------------------------------------------------------------------


async def test_stop_string_ends_the_answer_and_the_engines_work() -> None:
    async with http_face("one END three") as face:
        body = await face.complete(stop=["END", "never"])
        choice = body["choices"][0]
        assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("one ", "stop", "END")
        assert body["usage"]["completion_tokens"] == len("one END")
        assert face.executor.cancelled == [1]


async def test_stop_string_in_a_stream() -> None:
    wish = {"model": "tiny", "prompt": "Hi", "stream": True, "stop": "END", "stream_options": {"include_usage": True}}
    async with http_face("one END three", steps_itself=False) as face:
        async with face.reading("/v1/completions", wish, num_tokens=5) as stream:
            assert (await stream.next())["choices"][0]["text"] == "one "
            choice = (await stream.after(8))["choices"][0]  # the match lies within these
            assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("", "stop", "END")
            assert (await stream.next())["usage"]["completion_tokens"] == len("one END")
            assert await stream.next() == "data: [DONE]"
        assert face.executor.cancelled == [1]


async def test_length() -> None:
    async with http_face("abcdef") as face:
        choice = (await face.complete(max_tokens=3))["choices"][0]
        assert (choice["text"], choice["finish_reason"]) == ("abc", "length")


async def test_unfinished_character_at_the_end() -> None:
    async with http_face("a🎉") as face:
        assert (await face.complete(max_tokens=3))["choices"][0]["text"] == "a�"


async def test_stop_token() -> None:
    stop_id = make_tokenizer().encode("c")[0]
    async with http_face("abcdef") as face:
        choice = (await face.complete(stop_token_ids=[stop_id]))["choices"][0]
        assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("ab", "stop", stop_id)
        body = await face.complete(stop_token_ids=[stop_id], include_stop_str_in_output=True)
        assert body["choices"][0]["text"] == "abc"
        assert body["usage"]["completion_tokens"] == 3


async def test_special_tokens_are_shown_on_request() -> None:
    async with http_face("a<|im_start|>b") as face:
        assert (await face.complete())["choices"][0]["text"] == "ab"
        assert (await face.complete(skip_special_tokens=False))["choices"][0]["text"] == "a<|im_start|>b"


# --- the other routes -----------------------------------------------------------------------------------------------


async def test_what_the_server_says_of_itself() -> None:
    async with http_face() as face:
        async with face.session.get("/v1/models") as answer:
            assert [m["id"] for m in (await answer.json())["data"]] == ["tiny"]
        async with face.session.get("/version") as answer:
            assert await answer.json() == {"version": __version__}
        async with face.session.get("/server_info") as answer:
            info = await answer.json()
        assert (info["name"], info["url"], info["max_seq_len"]) == ("context-0", "127.0.0.1:1234", 200)
        async with face.session.get("/health") as answer:
            assert answer.status == 200


async def test_metrics() -> None:
    async with http_face("abc") as face:
        await face.complete()
        async with face.session.get("/metrics") as answer:
            text = await answer.text()
    labels = '{model="tiny",server="context-0"'
    assert 'trtllm_request_success_total{finished_reason="stop",model="tiny",server="context-0"} 1.0' in text
    assert f"trtdisagg_kv_blocks{labels}}} 10.0" in text
    assert f"trtllm_time_to_first_token_seconds_count{labels}}} 1.0" in text
    assert f"trtllm_time_per_output_token_seconds_count{labels}}} 1.0" in text
    assert f"trtllm_kv_cache_hit_rate{labels}}} 0.75" in text
    assert f"trtdisagg_kv_blocks_reused_total{labels}}} 3.0" in text
    assert "# TYPE trtllm_generation_tokens_total counter" in text


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_events_of_blocks_are_drained(method: str) -> None:
    spec = msgspec.structs.replace(SPEC, event_buffer_max_size=10)
    async with http_face(spec=spec) as face:
        stored = Stored(parent_hash="aa", blocks=[StoredBlock(block_hash="bb", tokens=[1, 2])])
        face.executor.kv_events = [KvEvent(event_id=0, data=Created([7, 0])), KvEvent(event_id=1, data=stored)]
        async with face.session.request(method, "/kv_cache_events") as answer:
            block = {"type": "stored_block", "block_hash": "bb", "tokens": [1, 2], "cache_level": 0}
            assert await answer.json() == [
                {"event_id": 0, "data": {"type": "created", "num_blocks_per_cache_level": [7, 0]}},
                {"event_id": 1, "data": {"type": "stored", "parent_hash": "aa", "blocks": [block]}},
            ]
        async with face.session.request(method, "/kv_cache_events") as answer:
            assert await answer.json() == []


async def test_events_that_are_not_made_are_not_asked_for_in_vain() -> None:
    async with http_face() as face, face.session.get("/kv_cache_events") as answer:
        assert answer.status == 400
        assert "event_buffer_max_size" in (await answer.json())["error"]["message"]


async def test_tokenize_and_detokenize() -> None:
    async with http_face() as face:
        status, body = await face.post("/tokenize", {"model": "tiny", "prompt": "Hi 🎉"})
        assert (status, body["count"], body["max_model_len"]) == (200, len(body["tokens"]), 200)
        assert await face.post("/detokenize", {"tokens": body["tokens"]}) == (200, {"prompt": "Hi 🎉"})
        long = "Hi " * 1400
        _, body = await face.post("/tokenize", {"prompt": long})
        assert body["count"] == 4200
        chat = {"messages": [{"role": "user", "content": "Hi"}]}
        _, body = await face.post("/tokenize", chat)
        await face.post("/v1/chat/completions", {"model": "tiny", **chat})
        assert face.executor.requests[0].prompt_token_ids == body["tokens"]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("/tokenize", {"prompt": "Hi", "x": 1}, 400, "x"),
        ("/tokenize", {}, 400, "prompt"),
        ("/tokenize", {"prompt": "Hi", "model": "other"}, 404, "model"),
        ("/detokenize", {"tokens": [10**9]}, 400, "tokens[0]"),
        ("/detokenize", {"tokens": [1], "model": "other"}, 404, "model"),
    ],
)
async def test_what_cannot_be_tokenized(path: str, body: dict[str, Any], status: int, param: str) -> None:
    async with http_face() as face:
        answered, error = await face.post(path, body)
        assert (answered, error["error"]["param"]) == (status, param)
