"""What makes requests one conversation."""

from __future__ import annotations

import msgspec
import pytest

from trtdisagg.errors import RequestError
from trtdisagg.proxy.routing.session import MAX_SESSION_CHARS, conversation, read_session

SYSTEM = {"role": "system", "content": "You are brief."}
QUESTION = {"role": "user", "content": "What is the capital of France?"}
ANSWER = {"role": "assistant", "content": "Paris."}
NEXT = {"role": "user", "content": "And of Spain?"}


def named(*messages: dict[str, str], **more: object) -> str | None:
    body = msgspec.json.encode({"model": "m", "messages": messages, **more})
    return conversation(msgspec.json.decode(body, type=dict[str, msgspec.Raw]))


def test_a_conversation_keeps_its_name_as_it_goes_on() -> None:
    first = named(SYSTEM, QUESTION)
    assert first is not None
    assert named(SYSTEM, QUESTION, ANSWER, NEXT, max_tokens=5) == first


def test_others_have_other_names() -> None:
    names = [
        named(SYSTEM, QUESTION),
        named(QUESTION),
        named(SYSTEM, NEXT),
        named(SYSTEM, QUESTION, user="somebody"),
        named(SYSTEM),
    ]
    assert len(set(names)) == len(names)


def test_a_single_prompt_is_of_none() -> None:
    assert conversation({"prompt": msgspec.Raw(b'"hello"')}) is None


def test_what_the_client_calls_it() -> None:
    assert read_session(None) is None
    assert read_session("") is None
    assert read_session("a session") == "a session"
    with pytest.raises(RequestError, match="X-Session-ID"):
        read_session("x" * (MAX_SESSION_CHARS + 1))
