"""The extension copies within bounds, and is told of once where it is missing."""

from __future__ import annotations

import importlib
import logging
import os

import numpy as np
import pytest

from trtdisagg.cache import native

needs_extension = pytest.mark.skipif(native.extension() is None, reason="the C++ extension is not built")


@needs_extension
def test_runs_are_copied() -> None:
    src, dst = np.arange(100, dtype=np.uint8), np.zeros(50, np.uint8)
    runs = np.array([(0, 90, 10), (40, 0, 10), (20, 50, 0), (25, 25, 1)], np.int64)
    native.extension().copy_runs(dst.ctypes.data, 50, src.ctypes.data, 100, runs)
    expected = np.zeros(50, np.uint8)
    expected[:10], expected[40:], expected[25] = src[90:], src[:10], 25
    assert (dst == expected).all()


@needs_extension
@pytest.mark.parametrize(
    "run",
    [(45, 0, 6), (0, 95, 6), (-1, 0, 1), (0, -1, 1), (0, 0, -1), (0, 0, 2**63 - 1), (2**63 - 1, 0, 1), (51, 0, 0)],
)
def test_nothing_is_copied_when_one_run_is_out_of_bounds(run: tuple[int, int, int]) -> None:
    src, dst = np.ones(100, np.uint8), np.zeros(50, np.uint8)
    with pytest.raises(IndexError, match=r"run 1 .* outside 50 bytes to write or 100 to read"):
        native.extension().copy_runs(dst.ctypes.data, 50, src.ctypes.data, 100, np.array([(0, 0, 10), run], np.int64))
    assert not dst.any()


@needs_extension
def test_runs_of_another_form_are_refused() -> None:
    with pytest.raises(TypeError):
        native.extension().copy_runs(0, 0, 0, 0, np.zeros((2, 2), np.int64))


@needs_extension
def test_workers_end_with_their_owner() -> None:
    before = threads()
    workers = native.extension().Workers(4)
    assert workers.num_threads == 4
    assert len(threads() - before) == 3
    del workers
    assert not threads() - before


def threads() -> set[str]:
    return set(os.listdir("/proc/self/task"))


def test_a_missing_extension_is_told_of_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    native.extension.cache_clear()
    monkeypatch.setattr(importlib, "import_module", missing)
    with caplog.at_level(logging.WARNING):
        assert [native.extension() for _ in range(3)] == [None] * 3
    monkeypatch.undo()
    native.extension.cache_clear()
    assert [r.getMessage() for r in caplog.records] == [
        "the C++ extension is missing (No module named 'trtdisagg._csrc'): plain torch runs in its place, slower"
    ]
