"""From a client's request to what routing asks."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import ModelSpec, RouterSpec
from trtdisagg.proxy.path.asks import Asks
from trtdisagg.proxy.path.request import Incoming, decode_incoming
from trtdisagg.proxy.routing.ask import Ask, Load, View
from trtdisagg.proxy.texts.texts import Reading
from trtdisagg.registry.members import Roster

SESSION = RouterSpec(type="session")
MESSAGES = [{"role": "user", "content": "hello"}]


def incoming(**fields: Any) -> Incoming:
    body = {"model": "m", **fields}
    return decode_incoming(json.dumps(body).encode(), chat="messages" in body, request_id="r")


def asks(**spec: Any) -> Asks:
    roster = Roster()
    roster.replace("test", [Member(name="both-0", role="both", model=m, url="h:1") for m in ("m", "n")])
    return Asks(roster, View(lambda _: Load(), lambda *_: None, {"m": ModelSpec(**spec)}))


def ask(**fields: Any) -> Ask:
    return asks().make(incoming(**fields))


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"prompt": [1, 2, 3]}, (3, True, 16, 1)),
        ({"prompt": [1, 2, 3], "truncate_prompt_tokens": 2}, (2, True, 16, 1)),
        ({"prompt": [[1, 2, 3]], "max_tokens": 5}, (3, False, 5, 1)),
        ({"prompt": [[1, 2, 3], [4, 5]], "max_tokens": 5, "n": 2, "best_of": 3}, (5, False, 5, 6)),
        ({"prompt": "x" * 375}, (100, False, 16, 1)),
        ({"prompt": ["x" * 373]}, (100, False, 16, 1)),
        ({"prompt": []}, (7, False, 16, 1)),
        ({"messages": MESSAGES}, (16, False, None, 1)),
        ({"messages": MESSAGES, "max_tokens": 5}, (20, False, 5, 1)),
        ({"messages": MESSAGES, "max_tokens": 5, "max_completion_tokens": 6, "n": 2}, (29, False, 6, 2)),
    ],
)
def test_how_much_is_asked_for(fields: dict[str, Any], size: tuple[int, bool, int | None, int]) -> None:
    made = ask(**fields)
    assert (made.num_prompt_tokens, made.is_exact, made.max_tokens, made.num_answers) == size


def test_a_prompt_that_was_read_is_counted() -> None:
    chains = {("root", 32): [7]}
    made = asks().make(incoming(prompt="hello"), reading=Reading(33, msgspec.Raw(b"[]"), chains))
    assert (made.num_prompt_tokens, made.is_exact, made.chains) == (33, True, chains)
    assert not asks().make(incoming(prompt=["a", "b"]), reading=Reading(33, None, chains)).is_exact, "there are two"


def test_each_model_has_turns_of_its_own() -> None:
    making = asks()
    turns = [making.make(incoming(model=m, prompt="x")).turn for m in ("m", "n", "m", "m", "n", "nobody", "nobody")]
    assert turns == [1, 1, 2, 3, 2, 0, 0]


def test_a_conversation_is_named_only_where_a_router_asks() -> None:
    chat = incoming(messages=MESSAGES)
    assert asks().session(chat, None) is None
    assert asks().session(chat, "mine") is None
    sessions = asks(generation_router=SESSION)
    assert sessions.session(chat, None) is not None
    assert sessions.session(chat, "mine") == "mine"
    assert sessions.session(incoming(prompt="hello"), None) is None
    assert sessions.make(chat, session="mine").session == "mine"


@pytest.mark.parametrize(
    ("spec", "of_session", "of_none"),
    [
        ({}, True, True),  # nobody reads it anyway
        ({"generation_router": SESSION}, False, True),
        ({"generation_router": SESSION, "context_router": RouterSpec(type="kv_cache_aware")}, True, True),
        ({"generation_router": SESSION, "max_local_prefill_length": 9}, True, True),
    ],
)
def test_a_conversation_that_is_known_need_not_be_read(spec: dict[str, Any], of_session: bool, of_none: bool) -> None:
    request = incoming(prompt="hello")
    assert asks(**spec).needs_tokens(request, "mine") == of_session
    assert asks(**spec).needs_tokens(request, None) == of_none


def test_what_cannot_be_handed_over_needs_one_server() -> None:
    assert ask(prompt="x", echo=True).needs_one_server
    assert not ask(prompt="x").needs_one_server
