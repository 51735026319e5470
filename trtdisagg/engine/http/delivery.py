"""From the engine's thread to the tasks that wait for their requests' outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from trtdisagg.engine.request import Output
from trtdisagg.errors import UnavailableError


class Mailbox:
    """The outputs of one task's requests. A task that is slow finds several at once."""

    def __init__(self) -> None:
        self._outputs: list[Output] = []
        self._filled = asyncio.Event()
        self._is_cut_short = False

    def put(self, output: Output) -> None:
        self._outputs.append(output)
        self._filled.set()

    def cut_short(self) -> None:
        """Nothing more comes."""
        self._is_cut_short = True
        self._filled.set()

    async def take(self) -> list[Output]:
        """Wait until there are outputs, and take all of them.

        :raises UnavailableError: when nothing more comes.
        """
        await self._filled.wait()
        if self._is_cut_short:
            raise UnavailableError("The server is shutting down")
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
    def mailbox(self, request_ids: Sequence[int]) -> Iterator[Mailbox]:
        """Where the outputs of these requests go, as long as somebody wants them."""
        assert self._mailboxes.keys().isdisjoint(request_ids)
        mailbox = Mailbox()
        self._mailboxes.update(dict.fromkeys(request_ids, mailbox))
        try:
            yield mailbox
        finally:
            for request_id in request_ids:
                del self._mailboxes[request_id]

    def cut_short(self) -> None:
        """Tell all who wait that nothing more comes, whatever the engine does."""
        for mailbox in self._mailboxes.values():
            mailbox.cut_short()

    def _sort(self, outputs: list[Output]) -> None:
        for output in outputs:
            if mailbox := self._mailboxes.get(output.request_id):
                mailbox.put(output)
