"""Where there is no GPU, Triton's kernels are interpreted on the CPU: what they compute is the same, but for bfloat16,
which the interpreter does not know.
"""

from __future__ import annotations

import os

import pytest
import torch

HAS_GPU = torch.cuda.is_available()

if not HAS_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels are defined


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    if request.node.get_closest_marker("gpu") and not HAS_GPU:
        pytest.skip("there is no CUDA device")
    pytest.importorskip("triton", reason="Triton is not installed; it comes with torch's builds for CUDA")
    return "cuda" if HAS_GPU else "cpu"
