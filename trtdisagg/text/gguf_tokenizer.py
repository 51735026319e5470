"""Builds a tokenizer from the metadata of a GGUF file.

A GGUF file says vocabulary, merges or scores, and the name of the splitting rule (`tokenizer.ggml.pre`); what that
rule is, is known here. The rules are those of the models' own tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from trtdisagg.errors import ConfigError, StartupError

_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
"""Values of `tokenizer.ggml.token_type`; 1 is an ordinary token."""

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPACE = "▁"


def build_gguf_tokenizer(metadata: dict[str, Any], path: str) -> Tokenizer:
    """Build the tokenizer that `metadata` describes.

    :param path: for messages.
    :raises ConfigError: when it is of a kind that is not supported.
    :raises StartupError: when something is missing.
    """
    kind = metadata.get("tokenizer.ggml.model", "none")
    if kind not in _BUILDERS:
        raise ConfigError(f"{path} has a tokenizer of kind {kind}; supported: {', '.join(_BUILDERS)}")
    try:
        tokenizer = _BUILDERS[kind](metadata, path)
    except KeyError as e:
        raise StartupError(f"{path} does not say its {e.args[0]}") from e
    _add_special_tokens(tokenizer, metadata)
    if metadata.get("tokenizer.ggml.add_bos_token", kind == "llama" or _pre(metadata) in _WHOLE_WORDS):
        bos = metadata["tokenizer.ggml.bos_token_id"]
        token = metadata["tokenizer.ggml.tokens"][bos]
        tokenizer.post_processor = processors.TemplateProcessing(single=[token, "$A"], special_tokens=[(token, bos)])
    return tokenizer


def _add_special_tokens(tokenizer: Tokenizer, metadata: dict[str, Any]) -> None:
    typed = list(zip(metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.token_type", []), strict=False))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t, type_ in typed if type_ == _CONTROL])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, type_ in typed if type_ == _USER_DEFINED])


# --- byte-level BPE -------------------------------------------------------------------------------------------------


def _byte_level(metadata: dict[str, Any], path: str) -> Tokenizer:
    pre = _pre(metadata)
    if pre not in _SPLITTERS:
        raise ConfigError(f"{path} splits text by the rule `{pre}`, which is not known; known: {', '.join(_SPLITTERS)}")
    vocab = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(m.split(" ", 1)) for m in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=pre in _WHOLE_WORDS))
    if pre in ("qwen2", "deepseek-r1-qwen"):
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _SPLITTERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pre(metadata: dict[str, Any]) -> str:
    return str(metadata.get("tokenizer.ggml.pre", "default"))


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _words(digits: str) -> pre_tokenizers.PreTokenizer:
    return _split(_WORDS % digits)


def _split(words: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


_LLAMA3 = ("llama-bpe", "llama3", "llama-v3")
_WHOLE_WORDS = (*_LLAMA3, "tekken")
"""A word that is a token is one, whatever the merges would make of it; and a text begins with its token."""
_SPLITTERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "gpt-2": _gpt2,
    "smollm": _smollm,
    "qwen2": lambda: _words(r"\p{N}"),
    "deepseek-r1-qwen": lambda: _words(r"\p{N}"),
    "tekken": lambda: _split(_TEKKEN_WORDS),
    **dict.fromkeys(_LLAMA3, lambda: _words(r"\p{N}{1,3}")),
}


# --- SentencePiece --------------------------------------------------------------------------------------------------


def _sentence_piece(metadata: dict[str, Any], path: str) -> Tokenizer:  # noqa: ARG001 (same shape as the other)
    tokens = metadata["tokenizer.ggml.tokens"]
    types = metadata["tokenizer.ggml.token_type"]
    unknown = next((t for t, type_ in zip(tokens, types, strict=True) if type_ == _UNKNOWN), None)
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = _merges(vocab, metadata["tokenizer.ggml.scores"], types)
    bpe = models.BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=_BYTE in types)
    tokenizer = Tokenizer(bpe)
    steps: list[Any] = [normalizers.Replace(" ", _SPACE)]
    strip = []
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend(_SPACE))
        strip.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return tokenizer


def _merges(vocab: dict[str, int], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """SentencePiece has scores in the place of merges: any two tokens that make a third, the best score first."""
    found = []
    for token, i in vocab.items():
        if types[i] == 1:
            pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
            known = [p for p in pairs if p[0] in vocab and p[1] in vocab]
            found += [(-scores[i], vocab[left], vocab[right], left, right) for left, right in known]
    found.sort(key=lambda m: m[:3])
    return [(left, right) for *_, left, right in found]


_BUILDERS: dict[str, Callable[[dict[str, Any], str], Tokenizer]] = {"gpt2": _byte_level, "llama": _sentence_piece}
