"""Between the proxy and a process that works on its texts: jobs one way, answers the other (each msgpack, in a frame).

proxy -> Begin, then Read | Tokenize | Detokenize ...      answers in any order -> Prompt | Page | Unreadable
"""

from __future__ import annotations

import msgspec

from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.answers import ErrorDetail


class Begin(msgspec.Struct, kw_only=True, frozen=True):
    """The first word."""

    wire_version: int = WIRE_VERSION
    models: dict[str, str]
    """Name -> where its tokenizer is."""
    warm: list[str]
    """Those to be loaded at once; the others when they are first needed."""


class Read(msgspec.Struct, kw_only=True, frozen=True, tag="read"):
    """A client's body whose prompt is wanted as tokens."""

    number: int
    """Of the job."""
    model: str
    chat: bool
    body: bytes
    roots: list[tuple[str, int]]
    """Root model and tokens per block, for each kind of chain that servers know blocks by."""


class Tokenize(msgspec.Struct, kw_only=True, frozen=True, tag="tokenize"):
    number: int
    model: str
    body: bytes
    max_model_len: int | None


class Detokenize(msgspec.Struct, kw_only=True, frozen=True, tag="detokenize"):
    number: int
    model: str
    body: bytes


class Prompt(msgspec.Struct, kw_only=True, frozen=True, tag="prompt"):
    """What a body was read as."""

    number: int
    num_tokens: int
    """Of all its prompts."""
    token_ids: bytes
    """As a JSON array; of several prompts none: empty."""
    chains: list[bytes]
    """For each root: the keys (text/block_hash.py) of the first prompt's full blocks, one behind the other."""


class Page(msgspec.Struct, kw_only=True, frozen=True, tag="page"):
    number: int
    body: bytes
    """As JSON."""


class Unreadable(msgspec.Struct, kw_only=True, frozen=True, tag="unreadable"):
    """The job is at fault, or the model's tokenizer."""

    number: int
    status: int
    """Of HTTP."""
    error: ErrorDetail


Job = Read | Tokenize | Detokenize
Answer = Prompt | Page | Unreadable
