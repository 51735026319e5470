"""The real engine goes on behind every event of a stream as if it had never broken: the same tokens, in float32."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest
from helpers import tiny_model, tiny_tokenizer
from helpers.breaks import SEAM, Relayed, broken_behind, context_leg, go_on, next_leg
from helpers.real_face import RealFace, real_face
from helpers.streams import put_together

from trtdisagg.protocol.spec import TransferSpec
from trtdisagg.text.model_files import files_at
from trtdisagg.text.tokenizer import load_tokenizer

pytestmark = pytest.mark.anyio

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
NUM_TOKENS = 14
SEEDED: dict[str, Any] = {"temperature": 1.0, "seed": 11}
LETTERS: dict[str, Any] = {**SEEDED, "guided_regex": "[a-f]{30}"}
PARAMETERS = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}
TOOLS: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}],
    "tool_choice": "required",
}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"enum": ["é", "🎉"]}, "b": {"type": "integer", "maximum": 99}},
    "required": ["a", "b"],
}
Wish = dict[str, Any]
Whole = dict[str, Any]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tiny_model.write(tmp_path_factory.mktemp("model") / "tiny")
    template = "{% if tools %}<tool_call>{% endif %}" + tiny_tokenizer.CHAT_TEMPLATE
    tiny_tokenizer.write_byte_level(directory, chat_template=template)
    return directory


def client_sees(events: list[Any]) -> Any:
    """Of usage, what was found cached is each server's own."""
    whole = put_together(events)
    usage = {k: v for k, v in whole["usage"].items() if k != "prompt_tokens_details"}
    return whole["choices"], usage


def text_of(whole: Whole) -> str:
    choice = whole["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


async def check_breaks(face: RealFace, path: str, wish: Wish) -> Whole:
    """Break the stream behind each of its events, and behind two of them; what a client got is always the same."""
    body = {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}, **wish}

    def ask(leg: Wish) -> Any:
        return face.events(path, leg)

    events = await ask({**body, "seam": SEAM})
    begun = [broken_behind(events, {**body, "seam": SEAM}, num) for num in range(1, len(events))]
    once = [go_on(ask, relayed, []) for relayed in begun]
    twice = [go_on(ask, relayed, [2]) for relayed in begun[::3]]
    for again in await asyncio.gather(*once, *twice):
        assert client_sees(again) == client_sees(events)
    return put_together(events)


COMPLETION: Wish = {"prompt": "Once upon", "max_tokens": NUM_TOKENS, **SEEDED}
CONVERSATION: Wish = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": NUM_TOKENS, **SEEDED}


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0, "frequency_penalty": 2.0, "return_token_ids": True},
        {"prompt": [5, 6, 7, 8, 9, 10, 11, 12, 13], "top_k": 20, "top_p": 0.9, "min_p": 0.01},
        {"frequency_penalty": 1.5, "presence_penalty": 1.5, "repetition_penalty": 1.5, "temperature": 0.5},
        {"logit_bias": {"60": 4.0, "70": 4.0, "2": -100}, "bad_words": ["a", "he"], "ignore_eos": True},
        {"logprobs": 3},
        {"logprobs": 0, "return_token_ids": True, "guided_regex": "(é🎉){9}"},
        {"detokenize": False},
        {"skip_special_tokens": False, "logit_bias": {"0": 9.0, "1": 9.0}, "return_token_ids": True},
        {"truncate_prompt_tokens": 3, "cache_salt": "pepper"},
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
        {"guided_json": SCHEMA, "max_tokens": 60},
        {"guided_choice": ["éa🎉b", "éa🎉c", "other"]},
        {"guided_grammar": 'start: "x" (("é" | "b") start)?', "seed": 3, "max_tokens": 25, "logprobs": 1},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, "max_tokens": 30},
    ],
    ids="+".join,
)
async def test_a_completion_goes_on(model: Path, fields: Wish) -> None:
    async with real_face(model, enable_block_reuse=False) as face:
        await check_breaks(face, COMPLETIONS, {**COMPLETION, **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0, "frequency_penalty": 2.0},
        {"logprobs": True, "top_logprobs": 2},
        {"guided_regex": "(é🎉){9}", "return_token_ids": True},
        {**TOOLS, "max_tokens": 90},
        {**TOOLS, "max_tokens": 90, "parallel_tool_calls": False, "logprobs": True},
        {**TOOLS, "tool_choice": {"type": "function", "function": {"name": "add"}}, "max_tokens": 80},
        {**TOOLS, "tool_choice": "auto"},
    ],
    ids="+".join,
)
async def test_a_chat_goes_on(model: Path, fields: Wish) -> None:
    async with real_face(model, enable_block_reuse=False) as face:
        await check_breaks(face, CHAT, {**CONVERSATION, **fields})


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize("with_logprobs", [False, True])
@pytest.mark.parametrize("include", [False, True])
async def test_stop_strings_over_the_break(model: Path, path: str, with_logprobs: bool, include: bool) -> None:
    logprobs: Wish = {"logprobs": True if path == CHAT else 0} if with_logprobs else {}
    wish = {**(COMPLETION if path == COMPLETIONS else CONVERSATION), **LETTERS}
    async with real_face(model, enable_block_reuse=False) as face:
        text = text_of(await check_breaks(face, path, wish))
        for start, end in ((3, 7), (4, 12)):
            stops = [text[start:end], text[2:5] + "-", text[8:]]
            whole = await check_breaks(
                face, path, {**wish, **logprobs, "stop": stops, "include_stop_str_in_output": include}
            )
            assert whole["choices"][0]["finish_reason"] == "stop"
            assert text_of(whole) == text[: end if include else start]


async def test_stop_tokens_before_and_behind_min_tokens(model: Path) -> None:
    wish = {**COMPLETION, **LETTERS, "max_tokens": 25, "return_token_ids": True}
    async with real_face(model, enable_block_reuse=False) as face:
        whole = await check_breaks(face, COMPLETIONS, wish)
        token_ids = whole["choices"][0]["token_ids"]
        for fields in ({}, {"min_tokens": 9}, {"min_tokens": 9, "include_stop_str_in_output": True}, {"logprobs": 1}):
            stop = {"stop_token_ids": token_ids[4:5], **fields}
            choice = (await check_breaks(face, COMPLETIONS, {**wish, **stop}))["choices"][0]
            assert choice["token_ids"][-1] == token_ids[4]
            assert len(choice["token_ids"]) > fields.get("min_tokens", 0)
            assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", token_ids[4])


async def test_kv_of_its_own_tokens_is_found_under_its_salt(model: Path) -> None:
    wish = {**COMPLETION, "cache_salt": "pepper", "max_tokens": 30}
    async with real_face(model) as face:
        await check_breaks(face, COMPLETIONS, wish)
        body = {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}, **wish, "seam": SEAM}
        events = await face.events(COMPLETIONS, body)
        leg = broken_behind(events, body, len(events) - 3).leg
        for salt, is_found in (("pepper", True), ("salt", False)):
            *_, usage, _ = await face.events(COMPLETIONS, {**leg, "cache_salt": salt})
            assert (usage["usage"]["prompt_tokens_details"]["cached_tokens"] > 0) is is_found


async def test_whatever_is_asked_for_together(model: Path, num_rounds: int) -> None:
    async with real_face(model, enable_block_reuse=False) as face:
        for seed in range(8 * num_rounds):
            path, wish = random_wish(Random(seed))
            try:
                await check_breaks(face, path, wish)
            except AssertionError as e:
                raise AssertionError(f"{path} {wish}") from e


def random_wish(random: Random) -> tuple[str, Wish]:
    path = random.choice([COMPLETIONS, CHAT])
    options: list[Wish] = [
        {"frequency_penalty": 1.0, "presence_penalty": -1.0},
        {"repetition_penalty": 1.3},
        {"temperature": 0, "frequency_penalty": 2.0},
        {"top_k": 30, "top_p": 0.8},
        {"stop": ["ab", "é", "cd\x05", "}", "faf"], "include_stop_str_in_output": random.random() < 0.5},
        {"stop_token_ids": [70, 71, 72], "min_tokens": 4},
        {"logprobs": 1} if path == COMPLETIONS else {"logprobs": True, "top_logprobs": 1},
        {"return_token_ids": True},
        {"detokenize": False},
        {"skip_special_tokens": False, "logit_bias": {"0": 5.0, "1": 5.0}},
        {"ignore_eos": True, "logit_bias": {"2": 5.0}},
        {"logit_bias": {"2": 3.0}},
        random.choice([{"guided_regex": r"[a-fé🎉]{5,20}"}, {"guided_json": SCHEMA}, {"guided_choice": ["aé🎉", "b"]}]),
        {"stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    ]
    if path == CHAT and random.random() < 0.3:
        options = [*options[:-2], {**TOOLS, "max_tokens": 70}]
    wish = COMPLETION if path == COMPLETIONS else CONVERSATION
    chosen = {k: v for option in random.sample(options, random.randint(2, 6)) for k, v in option.items()}
    return path, {**wish, "seed": random.getrandbits(30), **chosen}


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_behind_a_context_server_whose_kv_was_fetched(model: Path, path: str) -> None:
    """And behind its first token alone, which may be half a character."""
    transfer = TransferSpec(transports=["local"])
    wish = {
        **(COMPLETION if path == COMPLETIONS else CONVERSATION),
        "guided_regex": "(é🎉){9}",
        "return_token_ids": True,
    }
    wish |= {"logprobs": 1} if path == COMPLETIONS else {"logprobs": True}
    body = {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}, **wish}
    async with (
        real_face(model, name="context-0", incarnation="c", transfer=transfer) as context,
        real_face(model, transfer=transfer, enable_block_reuse=False) as generation,
    ):

        def ask(leg: Wish) -> Any:
            return generation.events(path, leg)

        whole = client_sees(await ask({**body, "seam": SEAM}))
        begun = await context_leg(context.post, path, body)
        more = await ask(begun.leg)
        assert client_sees([*begun.events, *more]) == whole
        assert generation.num_fetched == 1
        for num in range(len(more)):
            relayed = Relayed([*begun.events, *more[:num]], begun.leg, len(begun.events))
            again = await go_on(ask, Relayed(relayed.events, next_leg(relayed), len(relayed.events)), [])
            assert client_sees(again) == whole, num
        assert generation.num_fetched == 1


# --- what a proxy may also ask --------------------------------------------------------------------------------------


def going_on(tokens: list[int], num_chars: int, **fields: Any) -> Wish:
    params = {"request_type": "generation_only", "first_gen_tokens": tokens}
    seam = {**SEAM, "num_chars_sent": num_chars}
    body = {"model": "tiny", **COMPLETION, **LETTERS, "stream": True, **fields}
    return {**body, "disaggregated_params": params, "seam": seam}


async def test_behind_the_last_token_comes_the_end(model: Path) -> None:
    """Asked by somebody who does not know that it was the last."""
    wish = {"model": "tiny", **COMPLETION, **LETTERS, "stream": True, "return_token_ids": True}
    async with real_face(model) as face:
        choice = put_together(await face.events(COMPLETIONS, wish))["choices"][0]
        tokens, text = choice["token_ids"], choice["text"]
        stop = {"stop_token_ids": tokens[-1:], "min_tokens": NUM_TOKENS - 1}
        for fields, reason, num_chars in (({}, "length", len(text)), (stop, "stop", len(text) - 1)):
            [event, _] = await face.events(COMPLETIONS, going_on(tokens, num_chars, **fields))
            assert (event["choices"][0]["text"], event["choices"][0]["finish_reason"]) == ("", reason)
            assert event["seam"] == [num_chars, []]


async def test_what_cannot_go_on_is_refused_by_name(model: Path) -> None:
    async with real_face(model) as face:
        letters = load_tokenizer(files_at(model)).encode("abcdef" * 50)
        for tokens, fields, words in (
            (letters[:15], {}, "first_gen_tokens holds 15 tokens, and at most 14 can be generated"),
            (letters[:9], {"max_tokens": 250}, "but this server holds at most 256 (max_seq_len)"),
            ([*letters[:3], 900], {}, "Token 900 is not in the vocabulary"),
            ([*letters[:3], 2], {"stop_token_ids": []}, "does not follow the guide"),
        ):
            status, body = await face.post(COMPLETIONS, going_on(tokens, 0, **fields))
            assert status == 400
            assert words in body["error"]["message"]
        chat = {"prompt": None, "messages": CONVERSATION["messages"], "max_tokens": None}
        status, body = await face.post(CHAT, {k: v for k, v in going_on(letters, 0, **chat).items() if v is not None})
        assert (status, body["error"]["param"]) == (400, "first_gen_tokens")
