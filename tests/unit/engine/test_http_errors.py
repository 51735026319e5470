"""Everything that goes wrong is answered in OpenAI's form, and the server goes on."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import msgspec
import pytest
from helpers.http_face import SPEC, Face, http_face

from trtdisagg.engine.request import Request
from trtdisagg.protocol.spec import TransferSpec

pytestmark = pytest.mark.anyio

GOOD = {"model": "tiny", "prompt": "Hi"}
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETIONS, CHAT_COMPLETIONS = "/v1/completions", "/v1/chat/completions"


async def refused(face: Face, path: str, body: object, status: int, **kwargs: Any) -> Any:
    """The error of a request that must fail so; the next request is served."""
    got, answer = await face.post(path, body, **kwargs)
    assert got == status, answer
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    return answer["error"]


@pytest.mark.parametrize(
    ("path", "body", "message", "param"),
    [
        (COMPLETIONS, b'{"model": ', "not valid JSON", None),
        (COMPLETIONS, b"[]", "Wrong body", None),
        (COMPLETIONS, b"[" * 9000, "", None),
        (COMPLETIONS, {**GOOD, "temprature": 1}, "Unknown field `temprature`", "temprature"),
        (COMPLETIONS, {**GOOD, "max_tokens": "ten"}, "Wrong value for `max_tokens`", "max_tokens"),
        (COMPLETIONS, {**GOOD, "max_tokens": 0}, "only with `echo`", "max_tokens"),
        (COMPLETIONS, {"model": "tiny"}, "Missing field `prompt`", "prompt"),
        (COMPLETIONS, {**GOOD, "prompt": ""}, "The prompt is empty", "prompt"),
        (COMPLETIONS, {**GOOD, "prompt": []}, "The prompt is empty", "prompt"),
        (COMPLETIONS, {**GOOD, "prompt": [""]}, "The prompt is empty", "prompt"),
        (COMPLETIONS, {**GOOD, "prompt": [1, "b"]}, "mixes", "prompt"),
        (COMPLETIONS, {**GOOD, "prompt": ["a"] * 1025}, "1025 prompts", "prompt"),
        (COMPLETIONS, {**GOOD, "suffix": "x"}, "only continued", "suffix"),
        (COMPLETIONS, {**GOOD, "use_beam_search": True}, "a width of 1", "use_beam_search"),
        (COMPLETIONS, {**GOOD, "stop": ""}, "stop string is empty", "stop"),
        (COMPLETIONS, {**GOOD, "stop": ["x"] * 65}, "at most 64", "stop"),
        (COMPLETIONS, {**GOOD, "stop": "x" * 1001}, "at most 1000 characters", "stop"),
        (COMPLETIONS, {**GOOD, "top_k": -2}, "`top_k` is -2", "top_k"),
        (COMPLETIONS, {**GOOD, "min_tokens": 5, "max_tokens": 4}, "more than max_tokens, 4", "min_tokens"),
        (
            COMPLETIONS,
            {**GOOD, "stream_options": {"include_usage": True}},
            "only with `stream: true`",
            "stream_options",
        ),
        (CHAT_COMPLETIONS, {**CHAT, "messages": []}, "`messages` is empty", "messages"),
        (CHAT_COMPLETIONS, {**CHAT, "messages": [{"role": "king"}]}, "king", "messages[0].role"),
        (CHAT_COMPLETIONS, {**CHAT, "tools": [{"type": "function"}]}, "required field `function`", "tools[0]"),
        (CHAT_COMPLETIONS, {**CHAT, "chat_template_kwargs": {"messages": 1}}, "cannot be set", "chat_template_kwargs"),
    ],
)
async def test_bad_bodies(path: str, body: object, message: str, param: str | None) -> None:
    async with http_face() as face:
        error = await refused(face, path, body, 400)
        assert message in error["message"]
        assert error["type"] == "invalid_request_error"
        assert error["param"] == param
        assert not face.executor.requests
        await face.complete()


async def test_unknown_model() -> None:
    async with http_face() as face:
        error = await refused(face, COMPLETIONS, {**GOOD, "model": "gpt-7"}, 404)
        assert error["code"] == "model_not_found"
        assert "`gpt-7`" in error["message"]
        assert "`tiny`" in error["message"]


async def test_body_over_the_limit() -> None:
    async def in_pieces() -> Any:
        for _ in range(20):
            yield b"x" * 1000

    async with http_face() as face:
        error = await refused(face, COMPLETIONS, {**GOOD, "prompt": "x" * 10_000}, 413)
        assert "10000 bytes" in error["message"]
        async with face.session.post(COMPLETIONS, data=in_pieces()) as answer:  # its length is not known before
            assert answer.status == 413
            assert (await answer.json())["error"]["code"] == "body_too_large"
        await face.complete()


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v2/nothing", 404), ("GET", COMPLETIONS, 405), ("POST", "/health", 405)]
)
async def test_no_such_route(method: str, path: str, status: int) -> None:
    async with http_face() as face, face.session.request(method, path) as answer:
        assert answer.status == status
        assert (await answer.json())["error"]["message"].startswith(f"{method} {path}: ")


async def test_full_queue() -> None:
    async with http_face() as face:
        face.executor.max_queue_size = 0
        async with face.session.post(COMPLETIONS, json=GOOD) as answer:
            assert answer.status == 429
            assert answer.headers["Retry-After"] == "1"
            assert (await answer.json())["error"]["code"] == "queue_full"


async def test_engine_that_fails_before_the_first_token() -> None:
    async with http_face() as face:
        face.executor.error = "out of luck"
        for body in (GOOD, {**GOOD, "stream": True}):
            error = await refused(face, COMPLETIONS, body, 500)
            assert (error["message"], error["type"]) == ("out of luck", "internal_error")
        face.executor.error = None
        await face.complete()


async def test_engine_that_fails_within_a_stream() -> None:
    async with http_face("ab", steps_itself=False) as face:
        async with face.reading(COMPLETIONS, {**GOOD, "stream": True}) as stream:
            assert (await stream.next())["choices"][0]["text"] == "a"
            face.executor.error = "out of luck"
            assert (await stream.after(1))["error"]["message"] == "out of luck"
        assert face.service.num_requests == 0


async def test_fault_of_ours_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async with http_face() as face:
        face.executor.enqueue_request = None  # type: ignore[method-assign]
        with caplog.at_level(logging.ERROR):
            error = await refused(face, COMPLETIONS, GOOD, 500)
        assert error["message"].startswith("Internal error")
        assert "Traceback" in caplog.text
        del face.executor.enqueue_request
        await face.complete()


# --- when nothing is served -----------------------------------------------------------------------------------------


async def test_not_ready_draining_hanging() -> None:
    async with http_face() as face:
        opened, face.service._open = face.service._open, None
        await expect_unavailable(face, "starting")
        face.service._open = opened
        face.executor.reason = "the engine made no progress for 31 s"
        await expect_unavailable(face, "no progress")
        face.executor.reason = None
        face.service.drain()
        await expect_unavailable(face, "draining")
        assert not face.service.unfinished
        face.executor.num_held_blocks = 1
        assert face.service.unfinished


async def expect_unavailable(face: Face, reason: str) -> None:
    assert reason in (await refused(face, COMPLETIONS, GOOD, 503))["message"]
    async with face.session.get("/health") as answer:
        assert answer.status == 503
        assert answer.headers["Retry-After"] == "1"
        assert reason in (await answer.json())["error"]["message"]


async def test_running_requests_finish_while_it_drains() -> None:
    async with http_face("ab", steps_itself=False) as face:
        async with face.reading(COMPLETIONS, {**GOOD, "stream": True}) as stream:
            await stream.next()
            face.service.drain()
            assert face.service.unfinished
            assert (await stream.after(2))["choices"][0]["finish_reason"] == "stop"
        assert not face.service.unfinished


# --- who may ask ----------------------------------------------------------------------------------------------------


async def test_secret() -> None:
    async with http_face(secret=b"s3cret") as face:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "s3cret"}):
            error = await refused(face, COMPLETIONS, GOOD, 401, headers=headers)
            assert error["type"] == "authentication_error"
            assert "s3cret" not in error["message"]
        status, _ = await face.post(COMPLETIONS, GOOD, headers={"Authorization": "Bearer s3cret"})
        assert status == 200
        async with face.session.get("/metrics") as answer:
            assert answer.status == 401
        async with face.session.get("/health") as answer:
            assert answer.status == 200


# --- clients that leave ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
async def test_client_that_leaves_before_the_first_token(stream: bool) -> None:
    async with http_face(steps_itself=False) as face:
        asking = asyncio.create_task(face.post(COMPLETIONS, {**GOOD, "stream": stream}))
        await face.executor.enqueued.wait()
        asking.cancel()
        await asyncio.wait_for(face.executor.cancellation.wait(), 60)
        assert face.executor.cancelled == [1]
        face.executor.steps_itself = True
        await face.complete()
        assert face.service.num_requests == 0


async def test_client_that_leaves_while_its_guide_is_made() -> None:
    """What the engine has taken by then, on a thread of its own, is taken back."""
    is_asked, may_go_on = threading.Event(), threading.Event()
    async with http_face(steps_itself=False) as face:
        enqueue = face.executor.enqueue_request

        def enqueue_slowly(request: Request) -> int:
            is_asked.set()
            assert may_go_on.wait(10)
            return enqueue(request)

        face.executor.enqueue_request = enqueue_slowly  # type: ignore[method-assign]
        body = {**GOOD, "response_format": {"type": "json_object"}}
        asking = asyncio.create_task(face.post(COMPLETIONS, body))
        assert await asyncio.to_thread(is_asked.wait, 10)
        async with face.session.get("/version") as answer:
            assert answer.status == 200, "others are answered meanwhile"
        asking.cancel()
        while face.service.num_requests:
            await asyncio.sleep(0)
        may_go_on.set()
        await asyncio.wait_for(face.executor.cancellation.wait(), 60)
        assert face.executor.cancelled == [1]
        assert not face.executor.running


async def test_client_that_leaves_within_a_stream() -> None:
    async with http_face("a" * 100, steps_itself=False) as face:
        async with face.reading(COMPLETIONS, {**GOOD, "stream": True, "max_tokens": 50}) as stream:
            await stream.next()
        await asyncio.wait_for(face.executor.cancellation.wait(), 60)
        assert face.executor.cancelled == [1]


async def test_no_transports_means_no_handover() -> None:
    spec = msgspec.structs.replace(SPEC, transfer=TransferSpec())
    async with http_face(spec=spec) as face:
        for kind in ("context_only", "generation_only"):
            body = {**GOOD, "disaggregated_params": {"request_type": kind, "first_gen_tokens": [5]}}
            error = await refused(face, COMPLETIONS, body, 400)
            assert "Disaggregated serving is not enabled, please check the configuration" in error["message"]
            assert "cache_transceiver_config.backend" in error["message"]
        await face.complete(disaggregated_params={"request_type": "context_and_generation"})
