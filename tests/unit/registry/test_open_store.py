"""What is read before a store is opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdisagg.errors import StartupError
from trtdisagg.registry.open import read_secret


@pytest.mark.parametrize(("content", "words"), [(b"", "is empty"), (b" \n", "is empty"), (b"\xff", "is not UTF-8")])
def test_a_file_without_a_secret_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(StartupError, match=words):
        read_secret(str(tmp_path / "secret"))


def test_a_secret_is_what_stands_in_its_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("swordfish\n")
    assert read_secret(str(tmp_path / "secret")) == "swordfish"
    assert read_secret(None) is None
