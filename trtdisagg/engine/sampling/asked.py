"""What the rows of a step ask for, as tensors on a device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trtdisagg.engine.sampling.key import make_key
from trtdisagg.engine.sampling.row import Row


@dataclass(frozen=True, slots=True)
class Places:
    """Some tokens of some rows, each at most once, and a value for each."""

    rows: Tensor
    ids: Tensor
    values: Tensor
    """float32"""


@dataclass(frozen=True, slots=True)
class Asked:
    """None: no row asks for it. What a row does not ask for has the value that changes nothing."""

    mask: Tensor | None
    """int32 [rows, words]"""
    bans: Places | None
    biases: Places | None
    seen: Places | None
    """Tokens of prompt and output, with what presence and frequency penalties take from them."""
    repetition: Tensor
    inverse_temperature: Tensor
    """float32 [rows], like the others; 0: greedy."""
    min_scaled: Tensor
    top_k: Tensor
    """int64 [rows]; 0: all."""
    max_top_k: int
    top_p: Tensor
    """float64 [rows]"""
    has_top_p: bool
    key: Tensor
    """int32 [rows, 2]"""
    is_random: bool
    """Some row is."""

    @classmethod
    def of(cls, rows: Sequence[Row], vocab: int, device: torch.device) -> Asked:
        all_sampling = [row.sampling for row in rows]
        temperatures = [row.inverse_temperature for row in rows]
        top_k = [s.top_k if s.top_k < vocab else 0 for s in all_sampling]
        keys = [make_key(row.sampling.seed, row.choice, row.position) for row in rows]
        return cls(
            mask=_mask(rows, vocab, device),
            bans=_places(((list(row.banned()), 0.0) for row in rows), vocab, device),
            biases=_places(((list(s.logit_bias), list(s.logit_bias.values())) for s in all_sampling), vocab, device),
            seen=_places((_seen(row) for row in rows), vocab, device),
            repetition=_tensor([s.repetition_penalty for s in all_sampling], np.float32, device),
            inverse_temperature=_tensor(temperatures, np.float32, device),
            min_scaled=_tensor([row.min_scaled for row in rows], np.float32, device),
            top_k=_tensor(top_k, np.int64, device),
            max_top_k=max(top_k, default=0),
            top_p=_tensor([s.top_p for s in all_sampling], np.float64, device),
            has_top_p=any(s.top_p < 1 for s in all_sampling),
            key=_tensor(np.array(keys, "<u8").view("<i4").reshape(-1, 2), np.int32, device),
            is_random=any(temperatures),
        )


def _mask(rows: Sequence[Row], vocab: int, device: torch.device) -> Tensor | None:
    if all(row.mask is None for row in rows):
        return None
    words = np.full((len(rows), (vocab + 31) // 32), -1, np.int32)
    for target, row in zip(words, rows, strict=True):
        if row.mask is not None:
            target[:] = 0
            target[: len(row.mask)] = row.mask[: len(target)]
    return _tensor(words, np.int32, device)


def _seen(row: Row) -> tuple[npt.ArrayLike, npt.ArrayLike]:
    if not row.penalizes:
        return (), ()
    ids, counts = (np.array(values) for values in row.seen())
    return ids, row.sampling.presence_penalty * (counts > 0) + row.sampling.frequency_penalty * counts


def _places(of_rows: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]], vocab: int, device: torch.device) -> Places | None:
    parts = [
        (np.full(len(ids), row), ids, np.broadcast_to(values, len(ids)))
        for row, (ids, values) in enumerate((np.asarray(ids, np.int64), values) for ids, values in of_rows)
        if len(ids)
    ]
    if not parts:
        return None
    rows, ids, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    known = (ids >= 0) & (ids < vocab)
    return Places(
        _tensor(rows[known], np.int64, device),
        _tensor(ids[known], np.int64, device),
        _tensor(values[known], np.float32, device),
    )


def _tensor(values: npt.ArrayLike, dtype: Any, device: torch.device) -> Tensor:
    host = torch.from_numpy(np.array(values, dtype))
    return host.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else host.to(device)
