"""A stream that breaks anywhere goes on elsewhere, and its client cannot tell."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.breaks import DONE, SEAM, Relayed, broken, context_leg, go_on
from helpers.http_face import http_face, make_tokenizer
from helpers.streams import put_together
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from unit.engine.test_http_agreement import CHAT, Wish, comparable, scripts, streamed, wishes

pytestmark = pytest.mark.anyio

RANDOM = settings(max_examples=25, suppress_health_check=list(HealthCheck))
BREAKS = st.lists(st.integers(1, 5), min_size=1, max_size=3)
TOOLS: dict[str, Any] = {"tools": [{"type": "function", "function": {"name": "weather"}}]}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo 🎉"}}\n</tool_call>'


class Servers:
    """Any number of them, each asked once."""

    def __init__(self, script: str, path: str, **options: Any) -> None:
        self.script, self.path, self.options = script, path, options

    async def __call__(self, body: dict[str, Any]) -> list[Any]:
        async with http_face(self.script, **self.options) as face:
            return await face.events(self.path, body)

    async def begin(self, body: dict[str, Any]) -> Relayed:
        """On a context server."""
        async with http_face(self.script, **self.options) as face:
            return await context_leg(face.post, self.path, body)


def whole_of(events: list[Any]) -> dict[str, Any]:
    """What a client makes of a stream; what was found cached is each server's own."""
    whole = comparable(put_together(events))
    return {**whole, "usage": (whole["usage"] or {}) | {"prompt_tokens_details": None}}


@RANDOM
@given(script=scripts, asked=wishes(divisible=True), breaks=BREAKS)
async def test_a_stream_that_breaks_goes_on(script: str, asked: Wish, breaks: list[int]) -> None:
    path, wish = asked[0], streamed(asked[1])
    servers = Servers(script, path)
    whole = await servers({**wish, "seam": SEAM})
    assert whole_of(await broken(servers, wish, breaks)) == whole_of(whole)


@RANDOM
@given(script=scripts, asked=wishes(divisible=True), breaks=BREAKS)
async def test_behind_a_context_server(script: str, asked: Wish, breaks: list[int]) -> None:
    path, wish = asked[0], streamed(asked[1])
    servers = Servers(script, path)
    whole = await servers({**wish, "seam": SEAM})
    begun = await servers.begin(wish)
    if begun.events[-1] == DONE:
        return
    assert whole_of(await go_on(servers, begun, breaks)) == whole_of(whole)


@RANDOM
@given(script=scripts, asked=wishes(divisible=True))
async def test_what_was_said_is_the_beginning_of_what_its_tokens_say(script: str, asked: Wish) -> None:
    """So it stays true where another server, in another rounding, goes on with other tokens."""
    path, wish = asked
    show_all = {"skip_special_tokens": False, "detokenize": True}
    events = (await Servers(script, path)({**streamed({**wish, **show_all}), "seam": SEAM}))[:-2]
    text, tokens = "", []
    for event in events:
        (choice,) = event["choices"]
        text += choice["text"] if "text" in choice else choice["delta"].get("content", "")
        num_chars, more = event["seam"]
        tokens += more
        assert num_chars == len(text)
        assert make_tokenizer().decode(tokens, skip_special_tokens=False).startswith(text)


@pytest.mark.parametrize("script", [CALL, "So " + CALL + CALL, "<tool_call> of nature"])
async def test_calls_of_tools(script: str) -> None:
    template = "{% if tools %}<tool_call>{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    servers = Servers(script, CHAT, chat_template=template)
    wish = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True, **TOOLS}
    whole = await servers({**wish, "seam": SEAM})
    for num in range(1, len(whole), 1 + len(whole) // 30):
        again = await broken(servers, wish, [num, 1])
        assert whole_of(again) == whole_of(whole), num


async def test_every_event_says_how_to_go_on_and_no_other_has_parts() -> None:
    servers = Servers("END of", "/v1/completions")
    wish = streamed({"model": "tiny", "prompt": "Hi", "stop": "ENDE"})
    events = (await servers({**wish, "seam": SEAM}))[:-1]
    ids = make_tokenizer().encode("END of")
    assert [e["seam"] for e in events[:2]] == [[4, ids[:4]], [5, ids[4:5]]]
    assert [t for e in events for t in e["seam"][1]][:-1] == ids  # and the end of the sequence
    assert events[-1]["seam"] == [6, []]
    assert events[-1]["choices"] == []
    for fields in ({}, {"n": 2, "seam": SEAM}, {"echo": True, "seam": SEAM}, {"prompt": ["a", "b"], "seam": SEAM}):
        assert not any("seam" in event for event in (await servers({**wish, **fields}))[:-1])


async def test_usage_counts_all_tokens_in_every_event() -> None:
    servers = Servers("Hello", "/v1/completions")
    options = {"stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    wish = {"model": "tiny", "prompt": "Hi", "stream": True, **options}
    whole = await servers({**wish, "seam": SEAM})
    assert [e["usage"]["completion_tokens"] for e in whole[:-1]] == [1, 2, 3, 4, 5, 6, 6]
    for num in range(1, 7):
        events = await broken(servers, wish, [num])
        assert [e["usage"]["completion_tokens"] for e in events[:-1]] == [1, 2, 3, 4, 5, 6, 6], num


async def test_a_stream_of_which_only_the_opening_was_said() -> None:
    servers = Servers("Hi", CHAT)
    wish = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    events = await broken(servers, wish, [1])
    assert [e["choices"][0]["delta"] for e in events[:3]] == [
        {"role": "assistant", "content": ""},
        {"content": "H"},
        {"content": "i"},
    ]
