"""The sampler in csrc, for logits on the CPU: what is asked of the rows becomes records, and a step is one call."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trtdisagg.engine.request import TokenLogprob
from trtdisagg.engine.sampling.row import Row, Sampled

_RECORD = struct.Struct("@Qqq6P3d3f7i")
"""SampleRow in csrc/sampler.h."""
_MASK64 = (1 << 64) - 1


class NativeSampler:
    """
    :param workers: the extension's threads.
    """

    def __init__(self, csrc: ModuleType, workers: object, isa: str = "") -> None:
        assert csrc.Sampler.row_bytes == _RECORD.size
        self._csrc = csrc.Sampler(workers, isa)

    def sample(self, logits: Tensor, rows: Sequence[Row]) -> list[Sampled]:
        """
        :param logits: float32 [len(rows), vocab], contiguous.
        """
        kept: list[Any] = []
        records = array("B", b"".join([_record(row, kept) for row in rows]))
        tokens = array("i", bytes(4 * len(rows)))
        num_logprobs = [row.sampling.num_logprobs for row in rows]
        found = _room(num_logprobs)
        self._csrc.sample(
            logits.data_ptr(),
            logits.shape[1],
            records.buffer_info()[0],
            len(rows),
            tokens.buffer_info()[0],
            *(found.addresses if found else _NOWHERE),
        )
        chosen = [None if token < 0 else token for token in tokens]
        if found is None:
            return [Sampled(token, None) for token in chosen]
        return [
            Sampled(token, None if token is None or num is None else found.of(i, token))
            for i, (token, num) in enumerate(zip(chosen, num_logprobs, strict=True))
        ]

    def token_logprobs(self, logits: Tensor, token_ids: Sequence[int], num_top: int) -> list[TokenLogprob]:
        """
        :param logits: float32 [len(token_ids), vocab], contiguous.
        """
        tokens = array("i", token_ids)
        found = _Logprobs(len(tokens), num_top)
        self._csrc.logprobs(logits.data_ptr(), logits.shape[1], tokens.buffer_info()[0], len(tokens), *found.addresses)
        return [found.of(i, token) for i, token in enumerate(token_ids)]


class _Logprobs:
    """Room for what csrc finds."""

    def __init__(self, num_rows: int, max_top: int) -> None:
        self._chosen = np.empty(num_rows, np.float64)
        self._ids = np.empty((num_rows, max_top), np.int32)
        self._top = np.empty((num_rows, max_top), np.float64)
        self._num_top = np.empty(num_rows, np.int32)
        arrays = (self._chosen, self._ids, self._top, self._num_top)
        self.addresses = (*(_address(array) for array in arrays), max_top)

    def of(self, row: int, token: int) -> TokenLogprob:
        num = self._num_top[row]
        top = list(zip(self._ids[row, :num].tolist(), self._top[row, :num].tolist(), strict=True))
        return TokenLogprob(token, float(self._chosen[row]), top)


def _room(num_logprobs: Sequence[int | None]) -> _Logprobs | None:
    asked = [num for num in num_logprobs if num is not None]
    return _Logprobs(len(num_logprobs), max(asked)) if asked else None


def _record(row: Row, kept: list[Any]) -> bytes:
    """
    :param kept: what the record has addresses of is added.
    """
    s = row.sampling
    mask = banned_ids = bias_ids = biases = seen_ids = seen_counts = _NOTHING
    if row.mask is not None:
        words = np.ascontiguousarray(row.mask, np.int32)
        kept.append(words)
        mask = _address(words), len(words)
    if row.banned_ids or s.bad_words:
        banned_ids = _place(array("i", row.banned()), kept)
    if s.logit_bias:
        bias_ids = _place(array("i", s.logit_bias), kept)
        biases = _place(array("f", s.logit_bias.values()), kept)
    if row.penalizes:
        seen_ids, seen_counts = (_place(values, kept) for values in row.seen())
    return _RECORD.pack(
        s.seed & _MASK64,
        row.choice,
        row.position,
        mask[0],
        banned_ids[0],
        bias_ids[0],
        biases[0],
        seen_ids[0],
        seen_counts[0],
        s.top_p,
        s.presence_penalty,
        s.frequency_penalty,
        s.repetition_penalty,
        row.inverse_temperature,
        row.min_scaled,
        s.top_k,
        mask[1],
        banned_ids[1],
        bias_ids[1],
        seen_ids[1],
        -1 if s.num_logprobs is None else s.num_logprobs,
        0,
    )


_NOWHERE = (0, 0, 0, 0, 0)
"""In place of room for log probabilities."""
_NOTHING = (0, 0)
"""Address and length of no array."""


def _place(values: array[Any], kept: list[Any]) -> tuple[int, int]:
    kept.append(values)
    return values.buffer_info()


def _address(array: npt.NDArray[Any]) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
