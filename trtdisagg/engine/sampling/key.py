"""The key of random numbers that are a function of where they are used, not of what was drawn before."""

from __future__ import annotations

_MASK64 = (1 << 64) - 1


def make_key(*parts: int) -> int:
    """64 bits from the lower 64 of each number, by SplitMix64 (Steele, Lea and Flood 2014)."""
    key = 0
    for part in parts:
        key = ((key ^ part) + 0x9E3779B97F4A7C15) & _MASK64
        key = ((key ^ (key >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
        key = ((key ^ (key >> 27)) * 0x94D049BB133111EB) & _MASK64
        key ^= key >> 31
    return key
