"""Fixtures for all tests."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import re
import signal
from collections.abc import Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from helpers import nvml
from helpers.cluster import runtime_directory

for name in filter(
    re.compile(r"(SLURM|PMI|OMPI)|(?i:.*_proxy)$|(COLUMNS|LINES|FORCE_COLOR|NOTIFY_SOCKET)$").match, [*os.environ]
):
    del os.environ[name]
"""Wherever the tests are run: in a step of Slurm, in a service, behind a proxy, in a narrow terminal."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--soak", action="store_true", help="the same tests with large counts")


def pytest_configure(config: pytest.Config) -> None:
    """The same examples each time, but with --soak; how long one takes says nothing on a machine that others use."""
    slow, soak = hypothesis.HealthCheck.too_slow, config.getoption("--soak")
    hypothesis.settings.register_profile("ours", deadline=None, derandomize=not soak, suppress_health_check=[slow])
    hypothesis.settings.load_profile("ours")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files of e2e among those of process, evenly: engines of the real model are not to compute all at once,
    while most processes wait. What takes no time comes last."""
    paths = list(dict.fromkeys(item.path for item in items))
    rooms = [[path for path in paths if path.parent.name == room] for room in ("e2e", "process")]
    place = {path: i / len(room) for room in rooms for i, path in enumerate(room)}
    items.sort(key=lambda item: place.get(item.path, 1.0))


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: Any, settings: Any) -> Generator[None, Any, Any]:
    """Who was interrupted and hangs where it clears up, as in the end of `with Popen()`, is interrupted again. What
    waits in an event loop has to be cancelled there: it would go on, and whoever clears up would wait for it."""
    is_set = yield
    if settings.method == "signal":
        signal.setitimer(signal.ITIMER_REAL, settings.timeout, settings.timeout)
    if inspect.iscoroutinefunction(item.obj):
        item.obj = _in_time(item.obj, 0.9 * settings.timeout)
    return is_set


def _in_time(test: Callable[..., Coroutine[Any, Any, None]], timeout_s: float) -> Callable[..., Any]:
    @functools.wraps(test)
    async def within(**given: Any) -> None:
        async with asyncio.timeout(timeout_s):
            await test(**given)

    return within


@pytest.fixture(scope="session")
def num_rounds(request: pytest.FixtureRequest) -> int:
    """How often a test that can be repeated for hours does what it does."""
    return 10 if request.config.getoption("--soak") else 1


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def short_path(tmp_path: Path) -> Path:
    """A directory of this test for sockets, whose addresses must not be long."""
    return runtime_directory(tmp_path)


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in for NVIDIA's management library."""
    return nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def fake_nvml(nvml_library: Path, tmp_path: Path) -> Iterator[nvml.FakeNvml]:
    """A machine whose GPUs the test describes, in this process and, with `env`, in others."""
    fake = nvml.FakeNvml(nvml_library, tmp_path)
    with fake.loaded():
        yield fake
