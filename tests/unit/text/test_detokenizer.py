from __future__ import annotations

import pytest
from helpers import tiny_tokenizer
from helpers.trained_tokenizers import KINDS, TEXT, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from trtdisagg.text.detokenizer import Detokenizer
from trtdisagg.text.gguf_tokenizer import build_gguf_tokenizer
from trtdisagg.text.tokenizer import Tokenizer

BYTE_LEVEL = tiny_tokenizer.byte_level()
PIECES = build_gguf_tokenizer(tiny_tokenizer.sentence_piece_metadata(), "tiny.gguf")


def wrap(backend: object) -> Tokenizer:
    return Tokenizer(backend, name="tiny", eos_token_ids=frozenset({2}), special_tokens={}, chat_template=None)


TOKENIZERS = {"bytes": wrap(BYTE_LEVEL), "pieces": wrap(PIECES)}


def one_by_one(tokenizer: Tokenizer, ids: list[int], prompt: list[int] = [], *, skip: bool = True) -> list[str]:  # noqa: B006
    detokenizer = Detokenizer(tokenizer, prompt, skip_special_tokens=skip)
    return [*(detokenizer.push([i]) for i in ids), detokenizer.flush()]


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, BYTE_LEVEL.get_vocab_size() + 3)), skip=st.booleans())
def test_any_bytes_come_out_as_the_library_decodes_them(ids: list[int], skip: bool) -> None:
    text = "".join(one_by_one(TOKENIZERS["bytes"], ids, skip=skip))
    assert text == BYTE_LEVEL.decode(ids, skip_special_tokens=skip)
    assert text == TOKENIZERS["bytes"].decode(ids, skip_special_tokens=skip)


@settings(deadline=None)
@given(text=st.text(st.sampled_from("abc é🎉你\n"), max_size=12), prompt=st.text("ab ", max_size=6))
def test_pieces_follow_the_prompt_as_in_one_text(text: str, prompt: str) -> None:
    tokenizer = TOKENIZERS["pieces"]
    ids = PIECES.encode(text, add_special_tokens=False).ids
    before = PIECES.encode(prompt).ids
    whole = PIECES.decode([*before, *ids])
    assert PIECES.decode(before) + "".join(one_by_one(tokenizer, ids, before)) == whole
    assert tokenizer.decode(ids) == PIECES.decode(ids) == text


def test_a_character_comes_out_whole_or_not_yet() -> None:
    ids = BYTE_LEVEL.encode("a🎉b").ids
    assert one_by_one(TOKENIZERS["bytes"], ids) == ["a", "", "", "", "🎉", "b", ""]


def test_an_unfinished_character_ends_as_replacement() -> None:
    ids = BYTE_LEVEL.encode("é").ids
    assert one_by_one(TOKENIZERS["bytes"], ids[:1]) == ["", "�"]


def test_a_prompt_that_ends_within_a_character_is_completed() -> None:
    ids = BYTE_LEVEL.encode("x🎉y").ids
    assert "".join(one_by_one(TOKENIZERS["bytes"], ids[3:], ids[:3])) == "🎉y"


def test_ids_that_no_tokenizer_has_say_nothing() -> None:
    for tokenizer in TOKENIZERS.values():
        for wrong in (-1, 2**31, 2**32, 2**70):
            assert "".join(one_by_one(tokenizer, [5, wrong], [wrong])) == tokenizer.decode([5])


def test_special_tokens_are_skipped_or_shown() -> None:
    assert "".join(one_by_one(TOKENIZERS["bytes"], [1, 3, 2])) == "!"
    assert "".join(one_by_one(TOKENIZERS["bytes"], [1, 3, 2], skip=False)) == "<|im_start|>!<|im_end|>"


def test_first_space_is_dropped_only_at_the_start_of_the_text() -> None:
    tokenizer, (space_a,) = TOKENIZERS["pieces"], PIECES.encode("a", add_special_tokens=False).ids
    bos, a = 1, PIECES.token_to_id("a")
    assert "".join(one_by_one(tokenizer, [space_a, space_a], [bos])) == "a a"
    assert "".join(one_by_one(tokenizer, [space_a, space_a], [bos, *[a] * 20, *[bos] * 20])) == " a a"


# --- tokenizers of each kind ----------------------------------------------------------------------------------------

TRAINED = {kind: wrap(trained(kind)) for kind in KINDS}
PIECES_OF_TEXT = ["<tool>", "<|end|>", "¡olé!", " ", "  ", "\n", "▁", *{c for text in TEXT for c in text}]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(words=st.lists(st.sampled_from(PIECES_OF_TEXT), max_size=12), prompt=st.text("ab é", max_size=4))
def test_text_comes_out_as_the_library_decodes_it(kind: str, words: list[str], prompt: str) -> None:
    backend, tokenizer = trained(kind), TRAINED[kind]
    ids = backend.encode("".join(words), add_special_tokens=False).ids
    whole = backend.decode(ids)
    assert "".join(one_by_one(tokenizer, ids)) == tokenizer.decode(ids) == whole
    before = backend.encode(prompt).ids
    follows = "".join(one_by_one(tokenizer, ids, before))
    assert backend.decode(before) + follows == backend.decode([*before, *ids])


@pytest.mark.parametrize("kind", ["gpt2", "unigram"])
@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 139), max_size=12), skip=st.booleans())
def test_any_tokens_come_out_as_the_library_decodes_them(kind: str, ids: list[int], skip: bool) -> None:
    expected = trained(kind).decode(ids, skip_special_tokens=skip)
    assert "".join(one_by_one(TRAINED[kind], ids, skip=skip)) == expected


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(data=st.data())
def test_what_has_come_out_is_never_taken_back(kind: str, data: st.DataObject) -> None:
    """In pieces cut anywhere the text is the same, and nothing but the end is unfinished."""
    tokenizer = TRAINED[kind]
    ids = data.draw(st.lists(st.integers(0, trained(kind).get_vocab_size() - 1), max_size=12))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=3)))
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push(ids[a:b]) for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]
    assert "".join(pieces) + detokenizer.flush() == tokenizer.decode(ids)
