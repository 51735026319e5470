"""Names for the KV of a beginning of a text: equal exactly where model, salt and all tokens up to there are equal.

A block's hash is made of the hash before it and its own tokens, so one hash names a whole beginning:

    root(model, salt) --[ tokens of block 0 ]--> hash 0 --[ tokens of block 1 ]--> hash 1 ...

Both halves use it: the engine to find what it has computed already, the proxy to find who has. 128 bits of BLAKE2b:
nobody can make two texts that share a name, and with it another's KV.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b

HASH_BYTES = 16
KEY_BYTES = 8
"""Of a hash, what is enough to say who may have a block; to take it, all of it is compared."""


def root_hash(model: str, salt: str | None = None) -> bytes:
    """The hash before the first block.

    :param model: fingerprint of the weights.
    :param salt: requests share KV only with those of the same salt; None is a salt of its own.
    """
    named = model.encode() if salt is None else model.encode() + b"\0" + salt.encode()
    return blake2b(named, digest_size=HASH_BYTES).digest()


def block_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """The hash of a block with these tokens behind `parent`."""
    tokens = struct.pack(f"<{len(token_ids)}I", *token_ids)
    return blake2b(parent + tokens, digest_size=HASH_BYTES).digest()


def extend_chain(chain: list[bytes], root: bytes, token_ids: Sequence[int], tokens_per_block: int, end: int) -> None:
    """Add the hashes that are missing, so that every full block of the first `end` tokens has one.

    :param chain: the hashes of the first blocks, as far as they are known.
    """
    for i in range(len(chain), end // tokens_per_block):
        tokens = token_ids[i * tokens_per_block : (i + 1) * tokens_per_block]
        chain.append(block_hash(chain[-1] if chain else root, tokens))


def keys(hashes: bytes) -> memoryview:
    """The beginnings of hashes, as numbers, for a set of many.

    :param hashes: one behind the other.
    :raises ValueError: when the last one is cut off.
    """
    if len(hashes) % HASH_BYTES:
        raise ValueError(f"{len(hashes)} bytes are no whole number of hashes")
    return memoryview(hashes).cast("Q")[:: HASH_BYTES // KEY_BYTES]
