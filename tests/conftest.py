"""Fixtures for all tests."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="the same tests with large counts")


@pytest.fixture(scope="session")
def num_rounds(request: pytest.FixtureRequest) -> int:
    """How often a test that can be repeated for hours does what it does."""
    return 10 if request.config.getoption("--soak") else 1


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
