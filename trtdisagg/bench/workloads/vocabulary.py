"""A model's tokenizer as a load needs it: to count, and for words that are one token each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.text.gguf_header import read_gguf_header
from trtdisagg.text.gguf_tokenizer import build_gguf_tokenizer
from trtdisagg.text.model_files import find_tokenizer

_MAX_WORDS = 4096
"""Plenty for prompts that have nothing in common, and found in a tenth of a second."""
_SPACES = ("Ġ", "▁")
"""How vocabularies write the space before a word."""


class Vocabulary:
    """
    :param backend: a `tokenizers.Tokenizer`.
    """

    def __init__(self, backend: Any, name: str) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.name = name

    def count(self, text: str, *, is_message: bool = False) -> int:
        """Tokens of a text.

        :param is_message: of a chat: the template says what is put before it, not the tokenizer.
        """
        return len(self._backend.encode(text, add_special_tokens=not is_message))

    def words(self) -> list[str]:
        """Some that are one token each, at the start of a text as well as behind a space."""
        found = [t[1:] for t in sorted(self._backend.get_vocab()) if t.startswith(_SPACES)]
        found = [w for w in found if w.isascii() and w.isalpha()]
        found = found[:: 1 + len(found) // _MAX_WORDS]
        return [w for w in found if self.count(f"{w} {w}", is_message=True) == 2]


def load_vocabulary(name: str) -> Vocabulary:
    """Load the tokenizer of an alias, a hub id or a directory, or a tokenizer.json or .gguf file.

    :raises StartupError: when there is none, or it cannot be read.
    """
    file = find_tokenizer(name, may_download=True)
    if file is None:
        raise StartupError(
            f"There is no tokenizer at {name!r}: it is no tokenizer.json or .gguf file, no directory that has a "
            "tokenizer.json, no alias of a model, and the hub has none of that name or cannot be reached"
        )
    return _read(file, name)


def local_vocabulary(model: str) -> Vocabulary | None:
    """Load the tokenizer of a model if it is on this machine and can be read."""
    try:
        file = find_tokenizer(model, may_download=False)
        return None if file is None else _read(file, model)
    except (StartupError, ConfigError):
        return None


def _read(file: Path, name: str) -> Vocabulary:
    if file.suffix == ".gguf":
        return Vocabulary(build_gguf_tokenizer(read_gguf_header(str(file)).metadata, str(file)), name)
    try:
        return Vocabulary(tokenizers.Tokenizer.from_file(str(file)), name)
    except Exception as e:  # what the library raises, it says with a bare Exception
        raise StartupError(f"{file} cannot be read: {e}") from e
