"""Tokenizers from the metadata of GGUF files give the tokens of the ones they were made from."""

from __future__ import annotations

import pytest
from helpers import tiny_tokenizer
from helpers.trained_tokenizers import TEXT, gguf_metadata, trained
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend

from trtdisagg.errors import ConfigError
from trtdisagg.text.gguf_tokenizer import build_gguf_tokenizer


def gguf_bytes(pre: str) -> Backend:
    tokens = [t for t, _ in sorted(tiny_tokenizer.byte_level().get_vocab().items(), key=lambda x: x[1])]
    return build_gguf_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": [*tokens, "12", "123"],
            "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(tokens) - 1),
            "tokenizer.ggml.merges": ["h e", "Ġ a", "1 2", "12 3"],
            "tokenizer.ggml.bos_token_id": 1,
        },
        "m.gguf",
    )


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["he", "Ġa", "123", "4"]),
        ("smollm", ["he", "Ġa", "1", "2", "3", "4"]),
        ("qwen2", ["he", "Ġa", "1", "2", "3", "4"]),
        ("llama-bpe", ["<|im_start|>", "he", "Ġa", "123", "4"]),
        ("tekken", ["<|im_start|>", "he", "Ġa", "1", "2", "3", "4"]),
    ],
)
def test_gguf_splitting_rules(pre: str, pieces: list[str]) -> None:
    assert gguf_bytes(pre).encode("he a1234").tokens == pieces


def test_gguf_special_tokens_are_found_in_text() -> None:
    assert gguf_bytes("smollm").encode("<|im_end|>he").ids[0] == 2


@pytest.mark.parametrize("kind", ["tokenizer.ggml.pre", "tokenizer.ggml.model"])
def test_gguf_of_unknown_kind_is_refused(kind: str) -> None:
    metadata = {"tokenizer.ggml.model": "gpt2", kind: "klingon"}
    with pytest.raises(ConfigError, match=r"m\.gguf .*klingon.*; (known|supported): "):
        build_gguf_tokenizer(metadata, "m.gguf")


def test_sentence_piece() -> None:
    tokenizer = build_gguf_tokenizer(tiny_tokenizer.sentence_piece_metadata(), "m.gguf")
    assert tokenizer.encode("abc é ab").tokens == ["<s>", "▁abc", "▁", "<0xC3>", "<0xA9>", "▁ab"]
    assert tokenizer.decode(tokenizer.encode("abc é ab").ids) == "abc é ab"


def test_tekken_splits_where_small_letters_end() -> None:
    rule = build_gguf_tokenizer(gguf_metadata("llama3", "tekken"), "m.gguf").pre_tokenizer
    pieces = [piece for piece, _ in rule.pre_tokenize_str("HTTPServer getURL() x//\n")]
    assert pieces == ["HTTPServer", "Ġget", "URL", "()", "Ġx", "//Ċ"]


KINDS = {"gpt2": "gpt-2", "llama3": "llama-bpe", "llama2": "", "gemma": ""}
PIECES_OF_TEXT = ["<tool>", "<|end|>", "  ", "\n", *{c for text in TEXT for c in text}, *" ".join(TEXT).split()]


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(words=st.lists(st.sampled_from(PIECES_OF_TEXT), max_size=12))
def test_the_tokens_are_the_same(kind: str, words: list[str]) -> None:
    text = "".join(words)
    ours = BUILT[kind].encode(text).ids
    assert ours == trained(kind).encode(text, add_special_tokens=False).ids
    assert BUILT[kind].decode(ours) == trained(kind).decode(ours)


BUILT = {kind: build_gguf_tokenizer(gguf_metadata(kind, pre), "m.gguf") for kind, pre in KINDS.items()}
