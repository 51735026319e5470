"""Tensors of an arena are aligned, lie apart, and keep their memory."""

from __future__ import annotations

import pytest
import torch

from trtdisagg.engine import arena as arena_module
from trtdisagg.engine.arena import Arena


def test_tensors_keep_what_is_written_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena_module, "_CHUNK_BYTES", 4096)
    arena = Arena(torch.device("cpu"))
    shapes = [(3,), (5, 7), (1,), (30, 20), (9, 400), (2, 2), (1000,)] * 3
    tensors = [arena.empty(shape, torch.bfloat16) for shape in shapes]
    del arena
    for i, tensor in enumerate(tensors):
        tensor.fill_(float(i))
    for i, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
        assert tensor.shape == shape
        assert tensor.is_contiguous()
        assert tensor.data_ptr() % 64 == 0
        assert (tensor == i).all()
