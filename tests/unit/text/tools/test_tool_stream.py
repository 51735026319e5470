from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtdisagg.text.tools.format import HERMES, LLAMA, MISTRAL, MISTRAL_11, ToolFormat
from trtdisagg.text.tools.stream import ToolStream

FORMATS = {"hermes": HERMES, "llama": LLAMA, "mistral": MISTRAL, "mistral_11": MISTRAL_11}
PARIS = ("weather", '{"city": "Paris", "days": [1, 2]}')
ODD = ("note", '{"text": "a \\"quoted\\" } </tool_call> [TOOL_CALLS] \\\\", "n": {"m": {}}}')


def run(pieces: list[str], form: ToolFormat, max_calls: int | None = None) -> tuple[str, list[tuple[str, str]]]:
    """Content and calls, as a client puts them together."""
    stream = ToolStream(form, "key", max_calls=max_calls)
    content, calls = "", {}
    for piece in [*map(stream.push, pieces), stream.flush()]:
        content += piece.content
        for delta in piece.calls:
            if delta.id is not None:
                assert delta.type == "function"
                calls[delta.index] = (delta.id, delta.function.name, "")
            call_id, name, arguments = calls[delta.index]
            calls[delta.index] = (call_id, name, arguments + (delta.function.arguments or ""))
    assert [(c.id, c.function.name, c.function.arguments) for c in stream.calls] == [
        calls[i] for i in range(len(calls))
    ]
    return content, [(name, arguments) for _, name, arguments in calls.values()]


def call(name: str, arguments: str, key: str = "arguments") -> str:
    return f'{{"name": "{name}", "{key}": {arguments}}}'


def tag(inner: str) -> str:
    return f"<tool_call>\n{inner}\n</tool_call>"


F, G = ("f", "{}"), ("g", "{}")
A1 = ("f", '{"a": 1}')
ANSWERS = [
    # what the model says, content, calls
    ("hermes", "Hello <b>", "Hello <b>", []),
    ("hermes", tag(call(*PARIS)), "", [PARIS]),
    ("hermes", f"Let me see.\n\n{tag(call(*PARIS))}\n{tag(call(*ODD))}\n", "Let me see.", [PARIS, ODD]),
    ("hermes", '<tool_call>{"name":"f","arguments":{}}</tool_call> Done.', " Done.", [F]),
    ("hermes", f"<tool_call>[{call(*F)}, {call(*G)}]</tool_call>", "", [F, G]),
    ("hermes", tag(f"{call(*F)}\n{call(*G)}"), "", [F, G]),
    ("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', "", [A1]),
    ("hermes", '<tool_call>{"name": "f"}</tool_call>', "", [F]),
    ("hermes", tag(call("f", '"{\\"a\\": 1}"')), "", [A1]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}, "id": "{x"}</tool_call>!', "!", [A1]),
    # cut off
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "b', "", [("f", '{"a": "b')]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1}</tool_call>', "", [A1]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1</tool_call>x', "x", [("f", '{"a": 1')]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": 1</tool', "", [("f", '{"a": 1')]),
    ("hermes", '<tool_call>{"name": "f", "arguments": {}', "", [F]),
    ("hermes", '<tool_call>\n{"name": "f", "argu', '<tool_call>\n{"name": "f", "argu', []),
    ("hermes", "a <tool_ca", "a <tool_ca", []),
    ("hermes", f"<tool_call>{{broken {tag(call(*F))}", "<tool_call>{broken", [F]),
    # Llama 3
    ("llama", call(*PARIS, "parameters"), "", [PARIS]),
    ("llama", "\n<|python_tag|>" + call(*ODD, "parameters"), "", [ODD]),
    ("llama", '{"type": "function", "name": "f", "parameters": {}}', "", [F]),
    ("llama", '{"type": "function", "function": {"name": "f", "parameters": {"a": 1}}}', "", [A1]),
    ("llama", '{"type": "function", "function": "f", "parameters": {}}', "", [F]),
    ("llama", f"{call(*F)}; {call(*G)}", "", [F, G]),
    ("llama", f"{call(*F)} and so on", " and so on", [F]),
    # Mistral
    ("mistral", f"[TOOL_CALLS] [{call(*PARIS)}]", "", [PARIS]),
    ("mistral", f'Yes.[TOOL_CALLS][{call(*F)}, {call(*ODD)[:-1]}, "id": "x"}}] ok', "Yes. ok", [F, ODD]),
    ("mistral_11", f"Yes. [TOOL_CALLS]weather[ARGS]{PARIS[1]}[TOOL_CALLS]note[ARGS]{ODD[1]}", "Yes.", [PARIS, ODD]),
    ("mistral_11", "[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{}", "", [F]),
    ("mistral_11", '[TOOL_CALLS]f{"a": 1}', "", [A1]),
]
NO_CALLS = [
    ("hermes", " <tool_call>weather</tool_call>"),
    ("hermes", '<tool_call>{"city": 1}</tool_call>'),
    ("hermes", tag(call("f", "3"))),
    ("hermes", '<tool_call>{"name": 1, "arguments": {}}</tool_call>'),
    ("hermes", "  \n"),
    ("llama", '{"answer": 42}'),
    ("llama", '  {"answer": 42}'),
    ("llama", f"It is {call(*F)}"),
    ("llama", "{}"),
    ("llama", "[1]"),
    ("llama", ""),
    ("mistral", "[TOOL_CALLS]"),
    ("mistral", "[TOOL_CALLS][]"),
    ("mistral_11", "[TOOL_CALLS]no call {}"),
    ("mistral_11", f"[TOOL_CALLS]{'x' * 300}{{}}"),
]
ANSWERS += [(name, said, said, []) for name, said in NO_CALLS]


@pytest.mark.parametrize(("name", "said", "content", "calls"), ANSWERS)
def test_answers_however_they_are_cut(name: str, said: str, content: str, calls: list[tuple[str, str]]) -> None:
    ways = [[said], [*said], *([said[:at], said[at:]] for at in range(1, len(said), 3))]
    for pieces in ways:
        assert run(pieces, FORMATS[name]) == (content, calls)


def test_arguments_are_passed_on_as_they_come() -> None:
    stream = ToolStream(HERMES, "key")
    assert stream.push('Hm.\n<tool_call>\n{"name": "f"') == ("Hm.", [])
    begun = stream.push(', "arguments": {"a": "<').calls
    assert [(d.index, d.type, d.function.name, d.function.arguments) for d in begun] == [
        (0, "function", "f", '{"a": "<'),
    ]
    more = stream.push('b"</').calls
    assert [(d.index, d.id, d.type, d.function.name, d.function.arguments) for d in more] == [
        (0, None, None, None, 'b"'),
    ]


def test_ids_are_the_same_wherever_the_answer_goes_on() -> None:
    said = f"{tag(call(*F))}\n{tag(call(*F))}"
    streams = [ToolStream(HERMES, "a"), ToolStream(HERMES, "a"), ToolStream(HERMES, "b")]
    for stream in streams:
        stream.push(said)
    ids = [[c.id for c in s.calls] for s in streams]
    assert ids[0] == ids[1]
    assert len({*ids[0], *ids[2]}) == 4
    mistral = ToolStream(MISTRAL, "a")
    mistral.push(f"[TOOL_CALLS][{call(*F)}]")
    assert re.fullmatch("[a-z0-9]{9}", mistral.calls[0].id)  # its templates refuse others


def test_calls_that_are_too_many_are_dropped() -> None:
    assert run([*f"{tag(call(*F))}\n{tag(call(*G))}!"], HERMES, max_calls=1) == ("!", [F])


PARTS = ["<tool_call>", "</tool_call>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]", '{"name": "f", "arguments": ']
PARTS += ['{"name": "g", "parameters": {}}', '"parameters": {', '"a": ', '"', "\\", *"{}[],; \n<xé"]


@settings(deadline=None)
@given(
    name=st.sampled_from([*FORMATS]),
    parts=st.lists(st.sampled_from(PARTS), max_size=12),
    cuts=st.lists(st.integers(0, 80), max_size=6),
)
def test_how_the_text_is_cut_makes_no_difference(name: str, parts: list[str], cuts: list[int]) -> None:
    text = "".join(parts)
    borders = [0, *sorted(min(c, len(text)) for c in cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(borders)]
    assert run(pieces, FORMATS[name]) == run([text], FORMATS[name]) == run([*text], FORMATS[name])


@settings(deadline=None)
@given(name=st.sampled_from([*FORMATS]), text=st.text())
def test_plain_text_passes_unchanged(name: str, text: str) -> None:
    assert run([*text], FORMATS[name]) == (text, [])
