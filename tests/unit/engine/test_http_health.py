"""What an engine says of itself over HTTP, and what it does not wait for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from helpers.http_face import SPEC, Face, http_face

from trtdisagg.engine.http import canary

pytestmark = pytest.mark.anyio


async def ask(face: Face, path: str = "/health_generate", **kwargs: Any) -> tuple[int, str]:
    async with face.session.get(path, **kwargs) as answer:
        return answer.status, await answer.text()


async def test_the_canary_is_a_real_token() -> None:
    async with http_face() as face:
        assert await ask(face) == (200, '{"status":"ok"}')
        (request,) = face.executor.requests
        assert (len(request.prompt_token_ids), request.sampling.max_tokens, request.sampling.temperature) == (1, 1, 0)
        assert request.id < 0
        await ask(face)
        assert face.executor.requests[1].id != request.id


async def test_the_canary_says_why_there_is_none() -> None:
    async with http_face() as face:
        face.executor.error = "NaN"
        status, text = await ask(face)
        assert (status, "no token could be generated: NaN" in text) == (503, True)
        face.executor.reason = "it hangs"
        status, text = await ask(face)
        assert (status, "it hangs" in text) == (503, True)
        face.service.drain()
        assert "draining" in (await ask(face))[1]


async def test_the_canary_has_a_deadline_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary.canary, "__defaults__", (0.05,))
    async with http_face(steps_itself=False) as face:
        status, text = await ask(face)
        assert (status, "no token was generated within 0.05 s" in text) == (503, True)
        assert face.executor.cancelled == [face.executor.requests[0].id]


async def test_a_full_queue_is_no_sick_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of others show that it generates; without them it has until the deadline."""
    async with http_face() as face:
        face.executor.max_queue_size = 0
        asking = asyncio.create_task(ask(face))
        while not face.executor.num_refused:
            await asyncio.sleep(0)
        face.executor.num_generated = 1
        assert (await asking)[0] == 200
        monkeypatch.setattr(canary.canary, "__defaults__", (0.05,))
        assert (await ask(face))[0] == 503


async def test_the_canary_needs_the_secret() -> None:
    async with http_face(secret=b"s3cret") as face:
        assert (await ask(face))[0] == 401
        assert (await ask(face, headers={"Authorization": "Bearer s3cret"}))[0] == 200


async def test_other_methods_are_told_which_one_it_is() -> None:
    async with http_face() as face:
        for path in ("/health", "/health_generate"):
            async with face.session.post(path) as answer:
                assert answer.status == 405
                assert "GET" in answer.headers["Allow"]
        async with face.session.get("/v1/completions") as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async with http_face() as face:
        face.service.body_timeout_s = 0.05
        assert face.session._base_url is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", face.session._base_url.port)
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        async with asyncio.timeout(60):
            head = await reader.readuntil(b"\r\n\r\n")
            body = await reader.readuntil(b"}}")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"Connection: close" in head
        assert json.loads(body)["error"]["code"] == "body_timeout"
        writer.close()
        await writer.wait_closed()
        assert face.service.num_requests == 0


async def test_latencies_are_counted_by_leg() -> None:
    async with http_face() as face:
        await face.complete()
        stats = face.service.stats()
        assert (sum(stats.first_token_counts), sum(stats.per_token_counts)) == (1, 1)
        await face.complete(disaggregated_params={"request_type": "context_only"})
        stats = face.service.stats()
        assert (sum(stats.first_token_counts), sum(stats.per_token_counts)) == (2, 1)
        assert face.service.role == SPEC.role
