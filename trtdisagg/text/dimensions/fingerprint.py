"""Tells two models apart without reading them whole."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

_NUM_SAMPLES, _SAMPLE_BYTES = 16, 4096


def fingerprint(headers: dict[Path, int], config: bytes = b"") -> str:
    """Digest of sizes, headers and some samples of the data: two fine-tunings of one model differ in the data alone.

    :param headers: weight file -> length of its header in bytes.
    """
    digest = hashlib.blake2b(config, digest_size=16)
    for path, header_bytes in headers.items():
        size = path.stat().st_size
        with path.open("rb") as file:
            digest.update(struct.pack("<Q", size) + file.read(header_bytes))
            for i in range(_NUM_SAMPLES):
                file.seek(header_bytes + (size - header_bytes) * i // _NUM_SAMPLES)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
