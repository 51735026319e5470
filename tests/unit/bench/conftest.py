"""What the tests of the commands have in common."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have a terminal of any width."""
    monkeypatch.delenv("COLUMNS", raising=False)
