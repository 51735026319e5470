"""What a model computes with: a device, a type, threads, and the C++ extension where it serves that device."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch

from trtdisagg.cache.native import extension
from trtdisagg.engine.progress import Progress


class Backend:
    """
    :param num_threads: for everything computed on the CPU, torch's own work included: its setting is changed by `open`.
    :param progress: ticked by what computes.
    """

    csrc: ModuleType | None = None
    """None: plain torch."""
    workers: Any = None
    """The extension's threads."""

    def __init__(
        self, dtype: torch.dtype, device: torch.device, num_threads: int = 1, progress: Progress | None = None
    ) -> None:
        self.dtype = dtype
        self.device = device
        self.num_threads = num_threads
        self.progress = progress or Progress()

    def open(self) -> None:
        """Start the threads. They sleep while there is no work, and end with the last object that uses them."""
        torch.set_num_threads(self.num_threads)
        if self.device.type == "cpu" and (csrc := extension()):
            self.csrc = csrc
            self.workers = workers = csrc.Workers(self.num_threads)
            self.progress.add(lambda: int(workers.num_ticks))
