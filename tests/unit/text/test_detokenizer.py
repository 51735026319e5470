from __future__ import annotations

from helpers import tiny_tokenizer
from hypothesis import given
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


@given(ids=st.lists(st.integers(0, BYTE_LEVEL.get_vocab_size() + 3)), skip=st.booleans())
def test_any_bytes_come_out_as_the_library_decodes_them(ids: list[int], skip: bool) -> None:
    text = "".join(one_by_one(TOKENIZERS["bytes"], ids, skip=skip))
    assert text == BYTE_LEVEL.decode(ids, skip_special_tokens=skip)
    assert text == TOKENIZERS["bytes"].decode(ids, skip_special_tokens=skip)


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
