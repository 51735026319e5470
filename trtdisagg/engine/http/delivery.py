"""From the engine's thread to the tasks that wait for their requests' outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from trtdisagg.engine.request import Output


class Mailbox:
    """The outputs of one request. A task that is slow finds several at once."""

    def __init__(self) -> None:
        self._outputs: list[Output] = []
        self._filled = asyncio.Event()

    def put(self, output: Output) -> None:
        self._outputs.append(output)
        self._filled.set()

    async def take(self) -> list[Output]:
        """Wait until there are outputs, and take all of them."""
        await self._filled.wait()
        self._filled.clear()
        outputs, self._outputs = self._outputs, []
        return outputs


class Delivery:
    """
    :param loop: on which the tasks run.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._mailboxes: dict[int, Mailbox] = {}

    def deliver(self, outputs: list[Output]) -> None:
        """Take the outputs of one step; called from the engine's thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._sort, outputs)

    @contextmanager
    def mailbox(self, request_id: int) -> Iterator[Mailbox]:
        """Where the outputs of this request go, as long as somebody wants them."""
        assert request_id not in self._mailboxes
        self._mailboxes[request_id] = mailbox = Mailbox()
        try:
            yield mailbox
        finally:
            del self._mailboxes[request_id]

    def cut_short(self) -> None:
        """Tell all who wait that nothing more comes, whatever the engine does."""
        for request_id, mailbox in self._mailboxes.items():
            mailbox.put(Output(request_id=request_id, finish_reason="cancelled"))

    def _sort(self, outputs: list[Output]) -> None:
        for output in outputs:
            if mailbox := self._mailboxes.get(output.request_id):
                mailbox.put(output)
