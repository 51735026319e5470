"""KV that nobody will come for is given back at once, and only then."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from fakes.handover import ticket
from helpers.http_face import SPEC, Face, http_face, make_tokenizer

from trtdisagg.protocol.handover import seal

pytestmark = pytest.mark.anyio

SECRET = b"sesame"
HEADERS = {"Authorization": "Bearer sesame"}
TICKET = msgspec.structs.replace(ticket(7, 5, [1]), incarnation="theirs")
OURS = msgspec.structs.replace(TICKET, incarnation=SPEC.incarnation)


def leg(*, first: str = "H", **fields: Any) -> dict[str, Any]:
    """A generation leg with a ticket."""
    params = {
        "request_type": "generation_only",
        "first_gen_tokens": make_tokenizer().encode(first),
        "encoded_opaque_state": seal(TICKET, SECRET),
    }
    return {"model": "tiny", "prompt": "Hi", "disaggregated_params": params, **fields}


async def post(face: Face, body: Any, path: str = "/v1/completions") -> int:
    status, _ = await face.post(path, body, headers=HEADERS)
    return status


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"model": "another"}, 404),
        ({"temperature": "hot"}, 400),
        ({"prompt": 7}, 400),
        ({"unheard_of": 1}, 400),
        ({"n": 3, "best_of": 2}, 400),
        ({"max_tokens": 0}, 400),
    ],
)
async def test_a_leg_that_is_refused_gives_the_kv_back(fields: dict[str, Any], status: int) -> None:
    async with http_face(secret=SECRET) as face:
        assert await post(face, leg(**fields)) == status
        assert face.executor.released == [TICKET]
        assert not face.executor.requests


async def test_a_full_queue_gives_the_kv_back() -> None:
    async with http_face(secret=SECRET) as face:
        face.executor.max_queue_size = 0
        assert await post(face, leg()) == 429
        assert face.executor.released == [TICKET]


async def test_a_server_that_takes_none_leaves_the_kv_to_the_next() -> None:
    async with http_face(secret=SECRET) as face:
        face.service.drain()
        assert await post(face, leg()) == 503
        assert face.executor.released == []


async def test_the_engine_gives_back_what_it_has_taken() -> None:
    """Also when the request fails there: what is claimed is not released twice."""
    async with http_face("Hello", secret=SECRET) as face:
        assert await post(face, leg()) == 200
        face.executor.error = "it broke"
        assert await post(face, leg()) == 500
        assert face.executor.released == []


async def test_tokens_that_end_the_answer_need_no_kv() -> None:
    async with http_face(secret=SECRET) as face:
        assert await post(face, leg(first="END", stop="END")) == 200
        assert not face.executor.requests
        assert face.executor.released == [TICKET]


async def test_a_body_that_says_no_ticket_gives_nothing_back() -> None:
    async with http_face(secret=SECRET) as face:
        forged = {**leg()["disaggregated_params"], "encoded_opaque_state": seal(TICKET, b"another")}
        for body in (b"{", b'{"disaggregated_params": 7}', leg(model="x", disaggregated_params=forged)):
            assert await post(face, body) in (400, 404)
        assert face.executor.released == []


async def test_the_proxy_can_give_a_ticket_back() -> None:
    async with http_face(secret=SECRET) as face:
        assert await post(face, {"ticket": seal(OURS, SECRET)}, "/kv/release") == 200
        assert face.executor.released == [OURS]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"ticket": seal(TICKET, SECRET)}, "another server, or another start"),
        ({"ticket": seal(OURS, b"wrong")}, "not made by a server of this cluster"),
        ({"ticket": 5}, "The body is not"),
        ({}, "The body is not"),
        (b"\xff", "The body is not"),
    ],
)
async def test_what_is_no_ticket_of_ours_is_refused(body: Any, message: str) -> None:
    async with http_face(secret=SECRET) as face:
        status, answer = await face.post("/kv/release", body, headers=HEADERS)
        assert status == 400
        assert message in answer["error"]["message"]
        assert face.executor.released == []


async def test_only_the_cluster_can_give_tickets_back() -> None:
    async with http_face(secret=SECRET) as face:
        status, _ = await face.post("/kv/release", {"ticket": seal(OURS, SECRET)})
        assert status == 401
        assert face.executor.released == []
