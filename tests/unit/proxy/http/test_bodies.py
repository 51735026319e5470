"""What goes into the bodies of the legs, and what is made of a context server's answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdisagg.errors import RequestError
from trtdisagg.protocol.http1 import BadAnswerError
from trtdisagg.proxy.ids import DisaggIds, request_id
from trtdisagg.proxy.path import last_token
from trtdisagg.proxy.path.context import FirstToken, decode_first_token
from trtdisagg.proxy.path.request import Incoming, decode_incoming

PARAMS = {
    "request_type": "context_only",
    "first_gen_tokens": [5],
    "ctx_request_id": 7,
    "disagg_request_id": 2**41,
    "encoded_opaque_state": "VElDS0VU",
    "of_a_later_version": {"kept": [1, 2.50, None]},
}


def second_body(asked: Incoming, first: FirstToken, params: Mapping[str, Any]) -> bytes:
    num_chars_sent = None if first.seam is None else first.seam.num_chars_sent
    return asked.generation_body(params, prompt_token_ids=first.prompt_token_ids, num_chars_sent=num_chars_sent)


def incoming(**fields: Any) -> Incoming:
    body = {"model": "m", "prompt": "hello", **fields}
    chat = "messages" in fields
    if chat:
        del body["prompt"]
    return decode_incoming(json.dumps(body).encode(), chat=chat, request_id="r")


def answer(**changes: Any) -> bytes:
    choice = {"index": 0, "text": " a", "finish_reason": "not_finished", "disaggregated_params": PARAMS}
    whole = {
        "id": "x",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "choices": [{**choice, **changes.pop("choice", {})}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3},
        "prompt_token_ids": [1, 2],
        "seam": {"num_chars_sent": 2, "first_chunk": "data: x\n\n"},
        **changes,
    }
    return json.dumps(whole).encode()


# --- from the client to the legs ------------------------------------------------------------------------------------


@given(st.text(), st.floats(0, 2), st.lists(st.text(min_size=1), max_size=4), st.booleans())
def test_values_reach_both_legs_as_the_client_wrote_them(
    prompt: str, temperature: float, stop: list[str], stream: bool
) -> None:
    asked = incoming(prompt=prompt, temperature=temperature, stop=stop, stream=stream)
    first = json.loads(asked.context_body(2**40, seam=True))
    assert (first["prompt"], first["temperature"], first["stop"]) == (prompt, temperature, stop)
    taken = decode_first_token(answer(), seam=True)
    second = json.loads(second_body(asked, taken, taken.params_with_ticket()))
    assert (second["temperature"], second["stop"], second["stream"]) == (temperature, stop, stream)
    assert first["stream"] is False
    assert second["prompt"] == [1, 2]


def read(asked: Incoming) -> Incoming:
    return msgspec.structs.replace(asked, read_token_ids=msgspec.Raw(b"[7,8]"))


def test_a_prompt_that_was_read_goes_to_our_servers_as_tokens() -> None:
    asked = read(incoming(prompt="hello", temperature=0.5))
    body = json.loads(asked.context_body(1, seam=True))
    assert (body["prompt"], body["temperature"]) == ([7, 8], 0.5)
    assert json.loads(asked.alone_body(seam=True))["prompt"] == [7, 8]
    assert json.loads(asked.context_body(1, seam=False))["prompt"] == "hello"
    chat = read(incoming(messages=[{"role": "user", "content": "hello"}]))
    body = json.loads(chat.context_body(1, seam=True))
    assert (body["messages"], body["prompt_token_ids"]) == ([], [7, 8])
    assert json.loads(chat.context_body(1, seam=False)).keys().isdisjoint({"prompt_token_ids"})


def test_a_prompt_that_is_said_again_stays_as_it_was_written() -> None:
    body = json.loads(read(incoming(prompt="hello", echo=True)).alone_body(seam=True))
    assert body["prompt"] == "hello"


def test_the_seam_says_what_the_client_wants_and_has() -> None:
    asked = incoming(stream=True, stream_options={"include_usage": True, "continuous_usage_stats": True})
    first = json.loads(asked.context_body(2**40, seam=True, generation="generation-1"))
    assert "stream_options" not in first
    assert first["seam"] == {
        "id": asked.id,
        "created": asked.created,
        "stream": True,
        "include_usage": True,
        "continuous_usage_stats": True,
        "generation": "generation-1",
    }
    taken = decode_first_token(answer(), seam=True)
    second = json.loads(second_body(asked, taken, taken.params_with_ticket()))
    assert second["stream_options"] == {"include_usage": True, "continuous_usage_stats": True}
    del first["seam"]["generation"]
    assert second["seam"] == {**first["seam"], "num_chars_sent": 2}


def test_with_an_answer_that_is_not_streamed_nothing_was_sent() -> None:
    taken = decode_first_token(answer(), seam=True)
    second = json.loads(second_body(incoming(), taken, taken.params_with_ticket()))
    assert "num_chars_sent" not in second["seam"]


def test_a_foreign_server_gets_nothing_of_ours() -> None:
    asked = incoming()
    taken = decode_first_token(answer(), seam=False)
    assert asked.alone_body(seam=False) == b'{"model":"m","prompt":"hello"}'
    assert not {"seam", "seed"} & json.loads(asked.context_body(2**40, seam=False)).keys()
    assert not {"seam", "seed"} & json.loads(second_body(asked, taken, taken.params_with_ticket())).keys()


def test_a_seed_is_made_once_and_only_where_there_is_none() -> None:
    asked = incoming()
    taken = decode_first_token(answer(), seam=True)
    first = json.loads(asked.context_body(2**40, seam=True))
    second = json.loads(second_body(asked, taken, taken.params_with_ticket()))
    assert first["seed"] == second["seed"]
    assert 0 <= first["seed"] < 2**63
    assert json.loads(incoming(seed=3).context_body(2**40, seam=True))["seed"] == 3
    assert incoming().seed != incoming().seed


@pytest.mark.parametrize("field", ["seam", "disaggregated_params", "prompt_token_ids"])
def test_what_only_servers_may_send_is_refused(field: str) -> None:
    values = {"seam": {"id": "x", "created": 1}, "disaggregated_params": PARAMS | {"of_a_later_version": 1}}
    values["disaggregated_params"].pop("of_a_later_version")
    with pytest.raises(RequestError) as e:
        incoming(**{field: values.get(field, [1])})
    assert e.value.param == field


# --- the context server's answer ------------------------------------------------------------------------------------


def test_the_ticket_is_passed_on_as_it_came_unknown_fields_too() -> None:
    taken = decode_first_token(answer(), seam=True)
    second = json.loads(second_body(incoming(), taken, taken.params_with_ticket()))
    assert second["disaggregated_params"] == {**PARAMS, "request_type": "generation_only"}


def test_without_the_ticket_only_what_stays_true_is_passed_on() -> None:
    taken = decode_first_token(answer(), seam=True)
    second = json.loads(second_body(incoming(), taken, taken.params_without_ticket(2**40 + 1)))
    assert second["disaggregated_params"] == {
        "request_type": "generation_only",
        "first_gen_tokens": [5],
        "disagg_request_id": 2**40 + 1,
    }


@pytest.mark.parametrize(
    ("seam", "finish_reason", "is_last"),
    [
        (True, "not_finished", False),
        (True, "length", True),
        (True, "stop", True),
        (False, "not_finished", False),
        (False, "length", False),
        (False, "stop", True),
    ],
)
def test_whether_the_first_token_was_the_last(seam: bool, finish_reason: str, is_last: bool) -> None:
    assert decode_first_token(answer(choice={"finish_reason": finish_reason}), seam=seam).is_last is is_last


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"choices": []}',
        answer(choice={"finish_reason": "error"}),
        answer(choice={"disaggregated_params": None}),
        answer(choices=[{"finish_reason": "length"}] * 2),
        answer(seam=None),
    ],
)
def test_an_answer_that_generation_cannot_go_on_from_is_refused(body: bytes) -> None:
    with pytest.raises(BadAnswerError):
        decode_first_token(body, seam=True)


def test_an_answer_without_token_ids_leaves_the_prompt() -> None:
    taken: FirstToken = decode_first_token(answer(prompt_token_ids=None), seam=False)
    assert json.loads(second_body(incoming(), taken, {}))["prompt"] == "hello"


# --- when the first token was the last ------------------------------------------------------------------------------


def test_a_whole_answer_loses_only_what_is_not_for_clients() -> None:
    whole = json.loads(last_token.whole(answer(choice={"finish_reason": "stop", "stop_reason": "x"})))
    assert whole.keys() == {"id", "object", "created", "model", "choices", "usage"}
    assert whole["choices"] == [{"index": 0, "text": " a", "finish_reason": "stop", "stop_reason": "x"}]


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("chat", [False, True])
def test_a_whole_answer_becomes_a_stream(chat: bool, include_usage: bool) -> None:
    message = {"message": {"role": "assistant", "content": " a"}} if chat else {}
    body = answer(choice={"finish_reason": "stop", **message})
    events = last_token.streamed(body, chat=chat, include_usage=include_usage).split(b"\n\n")
    assert events[-2:] == [b"data: [DONE]", b""]
    chunks = [json.loads(e.removeprefix(b"data: ")) for e in events[:-2]]
    assert len(chunks) == 1 + include_usage
    choice = chunks[0]["choices"][0]
    assert (choice["delta"]["content"] if chat else choice["text"]) == " a"
    assert chunks[0]["object"] == ("chat.completion.chunk" if chat else "text_completion")
    if include_usage:
        assert chunks[1]["choices"] == []
        assert chunks[1]["usage"]["total_tokens"] == 3


# --- ids ------------------------------------------------------------------------------------------------------------


def test_ids_grow_whatever_the_clock_does() -> None:
    ids = DisaggIds(node=255, process=63)
    clock = [1_800_000_000.0] * 3000 + [1_799_999_999.0] * 10 + [1_800_000_010.0]
    made = [ids.next(unix_s) for unix_s in clock]
    assert made == sorted(set(made))
    assert all(2**40 <= i < 2**63 for i in made)
    assert {i >> 10 & 0x3FFF for i in made} == {0x3FFF}


def test_ids_of_two_processes_never_meet() -> None:
    first, second = DisaggIds(node=1, process=1), DisaggIds(node=1, process=2)
    assert not {first.next(1.8e9) for _ in range(5000)} & {second.next(1.8e9) for _ in range(5000)}


@pytest.mark.parametrize("wish", [None, "", "has space", "new\nline", "ü", "x" * 129])
def test_a_request_id_that_cannot_be_passed_on_is_replaced(wish: str | None) -> None:
    assert request_id(wish) != wish
    assert request_id("mine-1") == "mine-1"


@pytest.mark.parametrize("tokens", [[], [7], list(range(1000))])
@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"prompt_token_ids": [9, 9]},
        {"text": ' said "prompt_token_ids":[1] and\n"prompt_token_ids":[2]', "stop_reason": '"prompt_token_ids":[3]'},
    ],
)
def test_the_prompts_tokens_are_those_of_the_answer_whatever_else_is_called_so(
    tokens: list[int], choice: dict[str, Any]
) -> None:
    loose = answer(prompt_token_ids=tokens, choice=choice)
    for body in (loose, msgspec.json.format(loose, indent=-1)):
        taken = decode_first_token(body, seam=True)
        assert taken.body == body
        assert taken.prompt_token_ids is not None
        assert msgspec.json.decode(taken.prompt_token_ids) == tokens
        assert taken.params.keys() == PARAMS.keys()


@pytest.mark.parametrize("field", [None, True])
def test_tokens_that_are_none(field: bool | None) -> None:
    body = msgspec.json.format(answer(prompt_token_ids=field, choice={"prompt_token_ids": [9]}), indent=-1)
    taken = decode_first_token(body, seam=True)
    assert taken.prompt_token_ids is None or field


def test_an_answer_that_ends_within_its_tokens_cannot_be_read() -> None:
    body = msgspec.json.format(answer(prompt_token_ids=list(range(100))), indent=-1)
    with pytest.raises(BadAnswerError, match="cannot be read"):
        decode_first_token(body[: body.index(b"50,51")], seam=True)


def test_a_chat_of_which_ours_has_the_tokens_goes_without_its_messages() -> None:
    asked = incoming(messages=[{"role": "user", "content": "hello"}])
    taken = decode_first_token(answer(), seam=True)
    second = json.loads(second_body(asked, taken, taken.params_with_ticket()))
    assert (second["messages"], second["prompt_token_ids"]) == ([], [1, 2])
    theirs = decode_first_token(answer(), seam=False)
    assert json.loads(second_body(asked, theirs, theirs.params_with_ticket()))["messages"]
