"""What a client may send: each wrong field is named, and nothing is accepted that would be ignored."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trtdisagg.errors import RequestError, UnsupportedError
from trtdisagg.protocol.decoding import NOT_SERVED, decode_request
from trtdisagg.protocol.openai import ChatRequest, CompletionRequest

COMPLETION = {"model": "m", "prompt": "p"}
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


def decode(fields: dict[str, Any]) -> ChatRequest | CompletionRequest:
    body = msgspec.json.encode(fields)
    return decode_request(body, ChatRequest) if "messages" in fields else decode_request(body, CompletionRequest)


@pytest.mark.parametrize("base", [COMPLETION, CHAT])
def test_neutral_values_of_what_is_not_served_are_accepted(base: dict[str, Any]) -> None:
    kind = ChatRequest if base is CHAT else CompletionRequest
    types = {f.name: f.type for f in msgspec.structs.fields(kind)}
    for name in NOT_SERVED.keys() & types.keys():
        accepted = [v for v in NOT_SERVED[name].neutral if _fits(v, types[name])]
        assert accepted, name
        for value in accepted:
            decode({**base, name: value})


def _fits(value: Any, kind: Any) -> bool:
    """`logprobs` is a number in one API and a bool in the other, and so are its neutral values."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    ("base", "name", "value"),
    [
        (COMPLETION, "suffix", "x"),
        (COMPLETION, "use_beam_search", True),
        (CHAT, "chat_template", "{{ messages }}"),
    ],
)
def test_any_other_value_is_refused_by_name(base: dict[str, Any], name: str, value: Any) -> None:
    with pytest.raises(UnsupportedError, match=f"`{name}`") as e:
        decode({**base, name: value})
    assert e.value.param == name


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({**COMPLETION, "temprature": 1}, "temprature"),
        ({**COMPLETION, "max_tokens": "3"}, "max_tokens"),
        ({**COMPLETION, "max_tokens": -1}, "max_tokens"),
        ({**COMPLETION, "logprobs": 21}, "logprobs"),
        ({**COMPLETION, "presence_penalty": 2.5}, "presence_penalty"),
        ({**COMPLETION, "repetition_penalty": 0}, "repetition_penalty"),
        ({**COMPLETION, "min_p": 1.5}, "min_p"),
        ({**COMPLETION, "n": 0}, "n"),
        ({**COMPLETION, "timeout": 0}, "timeout"),
        ({**COMPLETION, "logit_bias": {"5": 101}}, "logit_bias[...]"),
        ({**CHAT, "top_logprobs": 21}, "top_logprobs"),
        ({**CHAT, "max_tokens": 0}, "max_tokens"),
        ({**COMPLETION, "temperature": -1}, "temperature"),
        ({"model": "m"}, "prompt"),
        ({**COMPLETION, "stream_options": {"include_usage": True}}, "stream_options"),
        ({**COMPLETION, "stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        ({**CHAT, "messages": [{"role": "king", "content": "hi"}]}, "messages[0].role"),
        ({**CHAT, "messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as e:
        decode(fields)
    assert e.value.param == param
    assert param in e.value.message


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"model": "\xff", "prompt": "p"}', b"[" * 100_000])
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError):
        decode_request(body, CompletionRequest)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({**COMPLETION, "temprature": 1}, "Unknown field `temprature` (did you mean `temperature`?)"),
        ({**COMPLETION, "zzz": {"a": 1}}, "Unknown field `zzz`"),
        (
            {**COMPLETION, "Max_Tokens": 1, "stream_options": {"include_use": True}, "nn": 1},
            "Unknown fields `Max_Tokens` (did you mean `max_tokens`?), `stream_options.include_use` "
            "(did you mean `include_usage`?), `nn` (did you mean `n`?)",
        ),
        (
            {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": "x", "txt": 1}], "nam": "x"}]},
            "Unknown fields `messages[0].content[0].txt` (did you mean `text`?), `messages[0].nam` (did you mean "
            "`name`?)",
        ),
    ],
)
def test_all_unknown_fields_are_named_with_what_was_meant(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as e:
        decode(fields)
    assert e.value.message == message


@pytest.mark.parametrize("name", ["x" * 1_000_000, "x" * 100_000, "a\nb", "", "\x00", "`", "né"])
def test_any_name_of_an_unknown_field_is_said_in_few_words(name: str) -> None:
    with pytest.raises(RequestError, match="Unknown field") as e:
        decode({**COMPLETION, name: 1})
    assert len(e.value.message) < 500
    assert len(e.value.param or "") < 500


def test_of_many_unknown_fields_the_first_are_named() -> None:
    with pytest.raises(RequestError, match=r"`u9`, others$"):
        decode({**COMPLETION, **{f"u{i}": 1 for i in range(2000)}})


@pytest.mark.parametrize("rest", ["[" * 5000, "[", '"\\ud800"'])
def test_an_unknown_field_is_named_where_the_rest_cannot_be_read(rest: str) -> None:
    with pytest.raises(RequestError, match="Unknown field `zzz`"):
        decode_request(b'{"model": "m", "prompt": "p", "zzz": ' + rest.encode(), CompletionRequest)
