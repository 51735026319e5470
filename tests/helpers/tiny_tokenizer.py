"""Small tokenizers made on the spot: one byte-level, one in SentencePiece's manner."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
EOS_ID = 2
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_level() -> Tokenizer:
    """Ids 0 to 2 are special, 3 to 258 the bytes in the order of their characters, then two merges."""
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "Ġa"]
    vocab = {t: i for i, t in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, [("h", "e"), ("Ġ", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


def write_byte_level(directory: Path, *, chat_template: str | None = CHAT_TEMPLATE) -> None:
    """Put what a model directory has of a tokenizer into `directory`."""
    byte_level().save(str(directory / "tokenizer.json"))
    config = {"bos_token": SPECIAL[1], "eos_token": {"content": SPECIAL[2]}, "model_max_length": 100}
    if chat_template is not None:
        config["chat_template"] = chat_template
    (directory / "tokenizer_config.json").write_text(json.dumps(config))


def write_model(directory: Path) -> None:
    """A model directory for those who look at its text alone."""
    write_byte_level(directory)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").touch()


def sentence_piece_metadata() -> dict[str, Any]:
    """The tokenizer's part of a GGUF file's metadata, for words made of `a`, `b` and `c`."""
    pieces = ["▁", "a", "b", "c", "ab", "▁a", "▁ab", "▁abc"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *pieces]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(pieces)],
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(len(pieces) - i) for i in range(len(pieces))],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }
