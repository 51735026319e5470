"""How fast this machine reads memory and multiplies matrices, so that speed can be told as a share of what is possible.

Short measurements, to be repeated between others: the best one counts, since what others compute at the same time can
only take from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from trtdisagg.cache.native import extension
from trtdisagg.protocol.bench import Limits

_MEMORY_BYTES = {"cpu": 128 << 20, "cuda": 2 << 30}
"""Several times the caches."""
_FMA_ROUNDS = 500_000
"""A few milliseconds."""
_SIZES = {"cpu": (128, 256, 512, 1024, 2048), "cuda": (1024, 4096, 8192)}
_LONG_S = 0.05
"""A matrix product that takes so long is not tried in a larger size: of a type without hardware it may take minutes."""
_NUM_TRIES = 5

Work = Callable[[], object]


class LimitMeter:
    """
    :param device: of the executors: `cpu` or `cuda`.
    :param num_threads: of the executors, on a CPU.
    """

    def __init__(self, device: str, num_threads: int) -> None:
        self._device = torch.device(device)
        self._num_threads = num_threads
        self._memory = torch.zeros(_MEMORY_BYTES[device], dtype=torch.uint8, device=device)
        self._csrc = extension() if device == "cpu" else None
        self._workers = self._csrc.Workers(num_threads) if self._csrc else None
        self._best: dict[str, float] = {}

    def measure(self) -> None:
        """Once more, in about half a second."""
        torch.set_num_threads(self._num_threads)  # of this thread
        self._note("memory", *self._memory_rate())
        for dtype in (torch.float32, torch.bfloat16):
            for size in _SIZES[self._device.type]:
                if self._note(str(dtype), *self._product(size, dtype)) > _LONG_S:
                    break
        if csrc := self._csrc:
            num_operations = csrc.multiply_add(1, self._workers) * _FMA_ROUNDS
            self._note("fma", num_operations, lambda: csrc.multiply_add(_FMA_ROUNDS, self._workers))

    @property
    def limits(self) -> Limits:
        """The best of all measurements."""
        best = {name: per_s / 1e9 for name, per_s in self._best.items()}
        return Limits(
            memory_gb_s=best["memory"],
            gemm_float32_gflop_s=best["torch.float32"],
            gemm_bfloat16_gflop_s=best["torch.bfloat16"],
            fma_gflop_s=best.get("fma"),
        )

    def _memory_rate(self) -> tuple[float, Work]:
        """Bytes, and what moves them."""
        memory, num_bytes = self._memory, _MEMORY_BYTES[self._device.type]
        if csrc := self._csrc:
            return num_bytes, lambda: csrc.read_memory(memory.data_ptr(), num_bytes, self._workers)
        if self._device.type == "cpu":
            return num_bytes, lambda: memory.view(torch.float32).sum()
        halves = memory.chunk(2)
        return num_bytes, lambda: halves[0].copy_(halves[1])

    def _product(self, size: int, dtype: torch.dtype) -> tuple[float, Work]:
        """Operations, and what does them."""
        a, b = (torch.ones(size, size, dtype=dtype, device=self._device) for _ in range(2))
        return 2.0 * size**3, lambda: a @ b

    def _note(self, name: str, amount: float, work: Work) -> float:
        """
        :return: how long it took.
        """
        seconds = min(self._tries(work))
        self._best[name] = max(amount / seconds, self._best.get(name, 0.0))
        return seconds

    def _tries(self, work: Work) -> Iterator[float]:
        for _ in range(_NUM_TRIES):
            self._finish()
            begin = time.perf_counter()
            work()
            self._finish()
            seconds = time.perf_counter() - begin
            yield seconds
            if seconds > _LONG_S:
                return

    def _finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
