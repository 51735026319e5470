"""What tests with real processes share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.agents import nothing_left

from trtdisagg.supervisor.place import Place


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
    with nothing_left(monkeypatch, tmp_path) as place:
        yield place
