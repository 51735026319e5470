"""Small tokenizers trained on the spot, of each kind that the supported families have."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXT = [
    "The quick brown fox jumps over the lazy dog. It's 12345 o'clock, isn't it?",
    "Es war einmal ein König, der hatte eine schöne Tochter.  Zwei Leerzeichen.",
    "吾輩は猫である。名前はまだ無い。 你好,世界! 안녕하세요 세계",
    "👩‍👩‍👧‍👦 🎉🎉 family and party 🇩🇪 ñandú façade naïve",
    "def f(x):\n    return x + 1\n\n\tif True:\n        pass\n",
    "Привет, мир! مرحبا بالعالم नमस्ते दुनिया",
]
SPECIAL = ["<s>", "</s>"]
_SPACE = "▁"
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@functools.cache
def trained(kind: str) -> Tokenizer:
    """One of `KINDS`. Those with bytes in their vocabulary do not know all characters of `TEXT`."""
    tokenizer, trainer = _BUILDERS[kind]()
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer = _with_plain_bytes(tokenizer)
    tokenizer.add_special_tokens([AddedToken("<|end|>", normalized=False)])
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False), AddedToken("¡olé!", normalized=False)])
    return tokenizer


def _with_plain_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """The trainer knows no way to bytes in the vocabulary but special tokens, which they are not."""
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if not _BYTE.fullmatch(t["content"])]
    return Tokenizer.from_str(json.dumps(data))


def gguf_metadata(kind: str, pre: str = "") -> dict[str, Any]:
    """The same tokenizer as llama.cpp's conversion writes it; `pre` names the rule that splits text."""
    tokenizer = trained(kind)
    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=vocab.__getitem__)
    merges = [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
    added = {t.content: 3 if t.special else 4 for t in tokenizer.get_added_tokens_decoder().values()}
    metadata = {
        "tokenizer.ggml.model": "gpt2" if pre else "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [_token_type(t, added) for t in tokens],
        "tokenizer.ggml.bos_token_id": vocab["<s>"],
        "tokenizer.ggml.add_bos_token": False,
    }
    if pre:
        return {**metadata, "tokenizer.ggml.pre": pre, "tokenizer.ggml.merges": merges}
    ranks = {merge.replace(" ", ""): -float(i) for i, merge in enumerate(merges)}
    scores = [ranks.get(t, -1e6) for t in tokens]
    return {**metadata, "tokenizer.ggml.scores": scores, "tokenizer.ggml.add_space_prefix": kind != "gemma"}


def _token_type(token: str, added: dict[str, int]) -> int:
    if _BYTE.fullmatch(token):
        return 6
    return 2 if token == "<unk>" else added.get(token, 1)


def _gpt2() -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, _bpe_trainer(350, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def _llama3() -> tuple[Tokenizer, Any]:
    tokenizer, trainer = _gpt2()
    split = pre_tokenizers.Split(Regex(_WORDS), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    return tokenizer, trainer


def _llama2() -> tuple[Tokenizer, Any]:
    tokenizer, trainer = _byte_fallback()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.decoder = decoders.Sequence([*_fallback_decoders(), decoders.Strip(" ", 1, 0)])
    return tokenizer, trainer


def _mistral() -> tuple[Tokenizer, Any]:
    tokenizer, trainer = _byte_fallback()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence([*_fallback_decoders(), decoders.Strip(" ", 1, 0)])
    return tokenizer, trainer


def _gemma() -> tuple[Tokenizer, Any]:
    tokenizer, trainer = _byte_fallback()
    tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
    tokenizer.decoder = decoders.Sequence(_fallback_decoders())
    return tokenizer, trainer


def _unigram() -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>", *SPECIAL], unk_token="<unk>", show_progress=False
    )


def _byte_fallback() -> tuple[Tokenizer, Any]:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    return tokenizer, _bpe_trainer(420, special=["<unk>", *SPECIAL, *(f"<0x{b:02X}>" for b in range(256))])


def _fallback_decoders() -> list[Any]:
    return [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]


def _bpe_trainer(size: int, *, special: list[str] | None = None, initial_alphabet: Any = ()) -> Any:
    return trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special or SPECIAL,
        initial_alphabet=list(initial_alphabet),
        limit_alphabet=1000 if initial_alphabet else 60,
        show_progress=False,
    )


_BUILDERS = {
    "gpt2": _gpt2,
    "llama3": _llama3,
    "llama2": _llama2,
    "mistral": _mistral,
    "gemma": _gemma,
    "unigram": _unigram,
}
KINDS = list(_BUILDERS)
