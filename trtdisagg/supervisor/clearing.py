"""Before a process starts on this machine: what the one before it had, its GPU's memory and its port, must be free."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from trtdisagg.supervisor import ports
from trtdisagg.supervisor.gpus import BaseLines


class Clearing:
    """
    :param on_notice: called with what is not free in time; then it is tried all the same.
    """

    def __init__(self, on_notice: Callable[[str], None]) -> None:
        self._on_notice = on_notice
        self._base_lines = BaseLines()

    async def until_clear(
        self, name: str, *, gpus: Sequence[str], needed_bytes: int, address: tuple[str, int] | None
    ) -> None:
        """Wait until all is free, or the deadline has passed.

        :param needed_bytes: what it takes on each GPU.
        :param address: host and port that it listens on; None: a free port.
        """
        if gpus:
            await self._base_lines.record(name, gpus)
            problem = await self._base_lines.back_to_base_line(name, gpus, needed_bytes)
            if problem is not None:
                self._on_notice(problem)
        if address is not None:
            await ports.until_free(*address, name)

    def forget(self, name: str) -> None:
        """It does not come back."""
        self._base_lines.forget(name)
