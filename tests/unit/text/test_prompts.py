"""Prompts of bodies, and /tokenize and /detokenize of the same texts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from helpers import tiny_tokenizer

from trtdisagg.errors import RequestError
from trtdisagg.protocol.decoding import decode_request
from trtdisagg.protocol.openai import ChatRequest, CompletionRequest
from trtdisagg.text.model_files import files_at
from trtdisagg.text.prompts import read_prompts
from trtdisagg.text.tokenizer import Tokenizer, load_tokenizer
from trtdisagg.text.tokenizing import detokenize, tokenize

CHAT = [{"role": "user", "content": "the end"}]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("model")
    tiny_tokenizer.write_model(directory)
    return load_tokenizer(files_at(directory))


def read(tokenizer: Tokenizer, **fields: Any) -> list[list[int]]:
    kind = ChatRequest if "messages" in fields else CompletionRequest
    return read_prompts(decode_request(msgspec.json.encode({"model": "m", **fields}), kind), tokenizer)


def body(**fields: Any) -> bytes:
    return msgspec.json.encode(fields)


def test_texts_and_tokens(tokenizer: Tokenizer) -> None:
    the, end = tokenizer.encode("the"), tokenizer.encode("end")
    assert read(tokenizer, prompt="the") == [the]
    assert read(tokenizer, prompt=the) == [the]
    assert read(tokenizer, prompt=["the", end]) == [the, end]
    assert read(tokenizer, prompt=["the", "end"], truncate_prompt_tokens=1) == [the[-1:], end[-1:]]
    assert read(tokenizer, prompt="the", prompt_token_ids=[7, 8]) == [[7, 8]]


@pytest.mark.parametrize("prompt", [[1, "two"], "", [], ["one", ""], [[]]])
def test_no_prompts(tokenizer: Tokenizer, prompt: Any) -> None:
    with pytest.raises(RequestError) as e:
        read(tokenizer, prompt=prompt)
    assert e.value.param == "prompt"


def test_tokens_of_a_conversation(tokenizer: Tokenizer) -> None:
    rendered = "<|im_start|>user\nthe end<|im_end|>\n"
    whole = tokenizer.encode(rendered + "<|im_start|>assistant\n", add_special_tokens=False)
    assert read(tokenizer, messages=CHAT) == [whole]
    assert read(tokenizer, messages=CHAT, add_generation_prompt=False) == [
        tokenizer.encode(rendered, add_special_tokens=False)
    ]
    assert read(tokenizer, messages=CHAT, truncate_prompt_tokens=3) == [whole[-3:]]
    with pytest.raises(RequestError, match="`messages` is empty"):
        read(tokenizer, messages=[])


def test_tokenize_is_what_a_request_is_read_as(tokenizer: Tokenizer) -> None:
    answer = tokenize(body(prompt="the end", return_token_strs=True), tokenizer, 100)
    assert [answer.tokens] == read(tokenizer, prompt="the end")
    assert (answer.count, answer.max_model_len) == (len(answer.tokens), 100)
    assert answer.token_strs == ["t", "he", "Ġ", "e", "n", "d"]
    assert [tokenize(body(messages=CHAT), tokenizer, None).tokens] == read(tokenizer, messages=CHAT)
    assert tokenize(body(prompt="a"), tokenizer, None).token_strs is None


def test_back_again(tokenizer: Tokenizer) -> None:
    tokens = tokenize(body(messages=CHAT), tokenizer, None).tokens
    assert detokenize(body(tokens=tokens), tokenizer).prompt.startswith("<|im_start|>user\nthe end<|im_end|>")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "a", "messages": CHAT}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "a", "tools": []}, "tools"),
        ({"messages": CHAT, "add_special_tokens": True}, "add_special_tokens"),
        ({"messages": CHAT, "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"prompt": "a", "promt": "b"}, "promt"),
    ],
)
def test_wrong_bodies_are_named(tokenizer: Tokenizer, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as e:
        tokenize(body(**fields), tokenizer, None)
    assert e.value.param is not None
    assert e.value.param.startswith(param)


@pytest.mark.parametrize("token", [-1, 261, 2**70])
def test_a_token_that_there_is_not(tokenizer: Tokenizer, token: int) -> None:
    with pytest.raises(RequestError) as e:
        detokenize(b'{"tokens":[1,%d]}' % token, tokenizer)
    assert e.value.param == "tokens[1]"
