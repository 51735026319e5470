"""Sizes in memory as people write them."""

from __future__ import annotations

import re

import pytest

from trtdisagg.config.sizes import PATTERN, size_bytes


@pytest.mark.parametrize(
    ("size", "num_bytes"),
    [
        (7, 7),
        ("7", 7),
        ("7B", 7),
        ("2K", 2048),
        ("512MB", 2**29),
        ("512MiB", 2**29),
        ("1 GB", 2**30),
        ("3TB", 3 * 2**40),
    ],
)
def test_size(size: int | str, num_bytes: int) -> None:
    assert size_bytes(size) == num_bytes


@pytest.mark.parametrize("text", ["", "MB", "-1", "1.5GB", "512 megs", "1iB1", "9" * 13])
def test_what_is_no_size(text: str) -> None:
    assert not re.search(PATTERN, text)
