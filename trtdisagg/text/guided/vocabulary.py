"""llguidance's view of a model's vocabulary: bytes and meaning of each token."""

from __future__ import annotations

from collections.abc import Sequence

import llguidance

from trtdisagg.text.tokenizer import Tokenizer

_SPECIAL = b"\xff"
"""What llguidance puts before a token that stands for no text, a byte that no UTF-8 has."""


def vocabulary_of(tokenizer: Tokenizer, vocab_size: int) -> llguidance.LLTokenizer:
    """
    Takes some tenths of a second for 50,000 tokens.

    :param vocab_size: of the model's logits; tokens beyond the tokenizer's are never allowed.
    """
    wrapper = llguidance.TokenizerWrapper(_View(tokenizer, vocab_size))
    return llguidance.LLTokenizer(wrapper, eos_token=[t for t in sorted(tokenizer.eos_token_ids) if t < vocab_size])


class _View:
    """A tokenizer with the attributes that llguidance asks for."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        special = tokenizer.special_token_ids | tokenizer.eos_token_ids
        self._tokenizer = tokenizer
        self.special_token_ids = sorted(special)
        self.tokens = [
            _SPECIAL + tokenizer.token_bytes[i] if i in special else tokenizer.token_bytes[i] for i in range(vocab_size)
        ]
        self.eos_token_id = min(tokenizer.eos_token_ids)
        self.bos_token_id = tokenizer.bos_token_id

    def __call__(self, text: str) -> Sequence[int]:
        return self._tokenizer.encode(text, add_special_tokens=False)
