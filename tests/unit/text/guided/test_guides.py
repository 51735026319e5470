"""Guides of a tiny byte-level tokenizer, against brute force; of SentencePiece; and of the real one."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import jsonschema
import numpy as np
import pytest
from helpers import tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from trtdisagg.errors import OverloadedError, RequestError
from trtdisagg.protocol.guide import GuideSpec
from trtdisagg.text.gguf_tokenizer import build_gguf_tokenizer
from trtdisagg.text.guided.guides import TokenGuide, TokenGuides
from trtdisagg.text.model_files import resolve_model
from trtdisagg.text.tokenizer import Tokenizer, load_tokenizer

VOCAB_SIZE = 270
"""Of the logits: nine more than the tokenizer has."""
TINY = Tokenizer(
    tiny_tokenizer.byte_level(), name="tiny", eos_token_ids=frozenset({0, 2}), special_tokens={}, chat_template=None
)
GUIDES = TokenGuides(TINY, VOCAB_SIZE)


def choice(*texts: str) -> GuideSpec:
    return GuideSpec(kind="choice", text=json.dumps(texts))


def schema(value: Any) -> GuideSpec:
    return GuideSpec(kind="json_schema", text=json.dumps(value))


def allowed(guide: TokenGuide) -> list[int]:
    bits = guide.mask()
    return np.flatnonzero(np.unpackbits(bits.view(np.uint8), bitorder="little")).tolist()


def feed(guide: TokenGuide, token_ids: list[int]) -> TokenGuide:
    for token_id in token_ids:
        guide.accept(token_id)
    return guide


def walk(guide: TokenGuide, rng: np.random.Generator, *, max_tokens: int, eos: frozenset[int]) -> list[int]:
    """Any of the allowed tokens, again and again, until the answer ends."""
    tokens: list[int] = []
    while not guide.is_complete and len(tokens) < max_tokens:
        tokens.append(int(rng.choice(allowed(guide))))
        guide.accept(tokens[-1])
    return tokens[:-1] if tokens and tokens[-1] in eos else tokens


# --- what the mask says ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(texts=st.lists(st.text('he a"\\/\n\x00é🎉', min_size=1, max_size=6), min_size=1, max_size=4), data=st.data())
def test_masks_against_brute_force(texts: list[str], data: st.DataObject) -> None:
    wanted = [t.encode() for t in texts]
    guide, so_far = GUIDES.open(choice(*texts)), b""
    while not guide.is_complete:
        rests = {w[len(so_far) :] for w in wanted if w.startswith(so_far)}
        fitting = [t for t in range(3, TINY.vocab_size) if any(r.startswith(TINY.token_bytes[t]) for r in rests)]
        expected = ([0, 2] if b"" in rests else []) + fitting
        found = allowed(guide)
        if len({r[:1] for r in rests}) == 1:  # what must come, comes in the tokens that the tokenizer makes of it
            assert found
            assert {*found} <= {*expected}
        else:
            assert found == expected
        token = data.draw(st.sampled_from(found))
        guide.accept(token)
        so_far += TINY.token_bytes[token] if token > 2 else b""
    assert so_far in wanted


def test_tokens_that_stand_for_no_text_are_never_allowed() -> None:
    guide = GUIDES.open(GuideSpec(kind="regex", text="(?s:.*)"))
    assert len(guide.mask()) == 9
    assert {0, 2, 3} < {*allowed(guide)} <= {0, *range(2, TINY.vocab_size)}  # not <|im_start|>, nor those without name


def test_a_mask_is_the_same_memory() -> None:
    guide = GUIDES.open(choice("he", "a"))
    first = guide.mask()
    guide.accept(allowed(guide)[0])
    assert guide.mask() is first


def test_an_answer_that_cannot_go_on_is_complete() -> None:
    guide = GUIDES.open(choice("a", "ab"))
    ids = TINY.encode("ab", add_special_tokens=False)
    assert not guide.is_complete
    guide.accept(ids[0])
    assert not guide.is_complete
    assert {0, 2} < {*allowed(guide)}
    guide.accept(ids[1])
    assert guide.is_complete
    assert allowed(guide) == [0, 2]


@pytest.mark.parametrize("eos", [0, 2])
def test_any_end_of_sequence_token_ends_an_answer(eos: int) -> None:
    guide = GUIDES.open(GuideSpec(kind="regex", text="a*"))
    guide.accept(eos)
    assert guide.is_complete


def test_a_token_that_may_not_come_changes_nothing() -> None:
    guide = GUIDES.open(choice("a", "b"))
    before = allowed(guide)
    with pytest.raises(ValueError, match="Token 2 does not follow the choice"):
        guide.accept(2)
    assert allowed(guide) == before


@settings(deadline=None)
@given(seed=st.integers(0, 2**32), num=st.integers(0, 40))
def test_a_guide_that_is_fed_is_where_the_one_is_that_went_on(seed: int, num: int) -> None:
    spec = schema({"type": "array", "items": {"enum": ["he", 1, None]}, "maxItems": 5})
    guide = GUIDES.open(spec)
    tokens = walk(guide, np.random.default_rng(seed), max_tokens=num, eos=TINY.eos_token_ids)
    other = feed(GUIDES.open(spec), tokens)
    if not guide.is_complete:
        assert allowed(other) == allowed(guide)
        assert not other.is_complete


# --- kinds ----------------------------------------------------------------------------------------------------------

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["a", "bb"]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{1,3}$"}, "maxItems": 3},
        "of": {"anyOf": [{"$ref": "#/$defs/small"}, {"type": "null"}]},
    },
    "required": ["name", "age", "of"],
    "additionalProperties": False,
    "$defs": {"small": {"type": "object", "properties": {"x": {"type": "boolean"}}, "additionalProperties": False}},
}


def test_whatever_is_sampled_satisfies_the_schema(num_rounds: int) -> None:
    rng = np.random.default_rng(1)
    for _ in range(10 * num_rounds):
        guide = GUIDES.open(schema(PERSON))
        text = TINY.decode(walk(guide, rng, max_tokens=5000, eos=TINY.eos_token_ids))
        assert guide.is_complete
        jsonschema.validate(json.loads(text), PERSON)


def test_any_object() -> None:
    guide = GUIDES.open(GuideSpec(kind="json_object"))
    feed(guide, TINY.encode('{"a": [1, {"b": null}]', add_special_tokens=False))
    assert not guide.is_complete
    feed(guide, TINY.encode("}", add_special_tokens=False))
    assert guide.is_complete
    with pytest.raises(ValueError, match="json_object"):
        feed(GUIDES.open(GuideSpec(kind="json_object")), TINY.encode("[", add_special_tokens=False))


def test_white_space_in_json_ends() -> None:
    guide = GUIDES.open(GuideSpec(kind="json_object"))
    feed(guide, TINY.encode("{" + " " * 96, add_special_tokens=False))
    with pytest.raises(ValueError, match="json_object"):
        guide.accept(TINY.encode(" ", add_special_tokens=False)[0])


@pytest.mark.parametrize("grammar", ['start: "he" x+\nx: /[ab]/', 'root ::= "he" x+\nx ::= [ab]'])
def test_grammars_of_lark_and_of_gbnf(grammar: str) -> None:
    guide = feed(GUIDES.open(GuideSpec(kind="grammar", text=grammar)), TINY.encode("hea", add_special_tokens=False))
    assert [TINY.token_bytes[t] for t in allowed(guide) if t > 2] == [b"a", b"b"]


def test_sentence_piece() -> None:
    backend = build_gguf_tokenizer(tiny_tokenizer.sentence_piece_metadata(), "m.gguf")
    tokenizer = Tokenizer(backend, name="x", eos_token_ids=frozenset({2}), special_tokens={}, chat_template=None)
    guide = TokenGuides(tokenizer, tokenizer.vocab_size).open(choice("abc é ab", "abc"))
    feed(guide, [backend.token_to_id(t) for t in ("ab", "c")])
    assert allowed(guide) == [2, backend.token_to_id("<0x20>"), backend.token_to_id("▁")]
    feed(guide, [backend.token_to_id(t) for t in ("▁", "<0xC3>", "<0xA9>", "▁ab")])
    assert guide.is_complete


# --- what cannot be followed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (schema({"type": "strin"}), "JSON schema of this request cannot be followed: Invalid type: strin"),
        (schema({"type": "integer", "minimum": 5, "maximum": 3}), "minimum .5. is greater than maximum .3."),
        (schema({"properties": {"a": False}, "required": ["a"], "type": "object"}), "'a' is unsatisfiable"),
        (schema({"not": {"type": "string"}}), 'Unimplemented keys: ."not".'),
        (schema({"type": "string", "format": "zip"}), "Unknown format: zip"),
        (schema({"$ref": "#/$defs/x"}), "'/.defs/x' does not exist"),
        (schema({"$ref": "#"}), "nothing satisfies it"),
        (schema({"enum": [f"{i:x}" for i in range(90_000)]}), "too big"),
        (GuideSpec(kind="json_schema", text='{"a":' * 300 + "1" + "}" * 300), "recursion limit"),
        (GuideSpec(kind="regex", text="(ab"), r"(?s)regular expression .*unclosed group"),
        (GuideSpec(kind="regex", text=r"(?=a)b"), "look-around"),
        (GuideSpec(kind="regex", text=r"[^\x00-\U0010FFFF]"), "nothing satisfies it"),
        (GuideSpec(kind="grammar", text="start: x"), r'(?s)grammar .*unknown name: "x"'),
        (GuideSpec(kind="grammar", text="start: start"), "nothing satisfies it"),
        (GuideSpec(kind="grammar", text="root ::= ("), "Expected '.' at line 1"),
        (GuideSpec(kind="grammar", text="start: <|nope|>"), "unknown special token"),
        (GuideSpec(kind="grammar", text="start: " + "(" * 5000 + '"a"' + ")" * 5000), "too deeply nested"),
        (GuideSpec(kind="regex", text="a" * 1_000_001), "longer than 1000000 characters"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_reason(spec: GuideSpec, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        GUIDES.open(spec)
    assert caught.value.param == "response_format"
    assert len(caught.value.message) < 400


def test_a_specification_that_explodes_on_the_way_ends_its_answer_alone() -> None:
    wide = {"type": "object", "properties": {f"p{i}": {"type": "null"} for i in range(800)}}
    guide = GUIDES.open(schema({"type": "object", "properties": {"wide": wide}, "required": ["wide"]}))
    *before, last = TINY.encode('{"wide":{', add_special_tokens=False)
    feed(guide, before)
    for go_on in (lambda: guide.accept(last), guide.mask):
        with pytest.raises(RequestError, match=r"JSON schema .* cannot be followed: Parser Error: Current row has"):
            go_on()
    assert allowed(GUIDES.open(choice("a")))


def test_a_specification_that_takes_too_long_does_not_hold_up_who_asks() -> None:
    guides = TokenGuides(TINY, VOCAB_SIZE, compile_timeout_s=0.05)
    slow = schema({"type": "integer", "multipleOf": 123_457, "minimum": 0, "maximum": 10**15})
    with pytest.raises(RequestError, match=r"takes longer than 0\.05 s to compile"):
        guides.open(slow)
    with pytest.raises(OverloadedError, match="other requests"):
        guides.open(choice("a"))


# --- costs ----------------------------------------------------------------------------------------------------------


def test_a_specification_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    guides = TokenGuides(TINY, VOCAB_SIZE)
    specs = [choice(str(i)) for i in range(65)]
    for spec in specs:
        guides.open(spec)
    compiled: list[GuideSpec] = []
    whole = TokenGuides._compile
    monkeypatch.setattr(TokenGuides, "_compile", lambda self, spec, v: compiled.append(spec) or whole(self, spec, v))
    for spec in (*specs[1:], specs[0], specs[2]):
        guides.open(spec)
    assert compiled == [specs[0]]  # the oldest had to go, and now the second


def test_many_threads_may_ask_at_once() -> None:
    guides = TokenGuides(TINY, VOCAB_SIZE)
    specs = [choice(str(i), "x") for i in range(8)]
    threads = [threading.Thread(target=lambda: [guides.open(s).mask() for s in specs]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [allowed(guides.open(s)) for s in specs] == [allowed(GUIDES.open(s)) for s in specs]


def test_nothing_is_loaded_before_the_first_specification() -> None:
    code = "import sys, trtdisagg.text.guided.guides, trtdisagg.text.guided.request; print('llguidance' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n"


# --- the real vocabulary --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm() -> Tokenizer:
    return load_tokenizer(resolve_model("smollm2-135m-instruct"))


@pytest.mark.real_model
def test_real_vocabulary(smollm: Tokenizer, num_rounds: int) -> None:
    guides = TokenGuides(smollm, smollm.vocab_size)
    rng = np.random.default_rng(2)
    for _ in range(10 * num_rounds):
        guide = guides.open(schema(PERSON))
        text = smollm.decode(walk(guide, rng, max_tokens=5000, eos=smollm.eos_token_ids))
        assert guide.is_complete
        jsonschema.validate(json.loads(text), PERSON)
