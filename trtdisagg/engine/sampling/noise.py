"""Random numbers that are a function of where they are used: (seed, choice, position, token id)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.uint32]

_MASK64 = (1 << 64) - 1


def exponential(bits: Bits) -> npt.NDArray[np.float64]:
    """Exponentially distributed numbers, never 0 and never infinite."""
    u = (bits.astype(np.float64) + 0.5) * 2.0**-32
    return -np.log1p(-u)


def hash_ids(ids: npt.NDArray[np.integer], key: int) -> Bits:
    """32 random bits per token id: the finalizer of MurmurHash3, keyed at its entry and in the middle."""
    z = ids.astype(np.uint32)
    z *= np.uint32(0x9E3779B9)
    z += np.uint32(key & 0xFFFFFFFF)
    z ^= z >> np.uint32(16)
    z *= np.uint32(0x85EBCA6B)
    z ^= np.uint32(key >> 32)
    z ^= z >> np.uint32(13)
    z *= np.uint32(0xC2B2AE35)
    z ^= z >> np.uint32(16)
    return z


def make_key(*parts: int) -> int:
    """64 bits from the lower 64 of each number, by SplitMix64 (Steele, Lea and Flood 2014)."""
    key = 0
    for part in parts:
        key = ((key ^ part) + 0x9E3779B97F4A7C15) & _MASK64
        key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & _MASK64
        key ^= key >> 31
    return key
