"""From the engine's thread to the tasks that wait for their requests' outputs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from trtdisagg.engine.request import Output
from trtdisagg.errors import UnavailableError

Sink = Callable[[list[Output]], bool]
"""Takes outputs at once, in the event loop; False: no more for now."""


class Mailbox:
    """The outputs of one task's requests. A task that is slow finds several at once."""

    def __init__(self) -> None:
        self._outputs: list[Output] = []
        self._sink: Sink | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._is_cut_short = False

    def put(self, outputs: list[Output]) -> None:
        if self._sink is None:
            self._outputs += outputs
            self._wake()
            return
        try:
            if self._sink(outputs):
                return
        except Exception as e:  # noqa: BLE001 - raised again where it is waited for
            self._wake(e)
        self._sink = None
        self._wake()

    def cut_short(self) -> None:
        """Nothing more comes."""
        self._is_cut_short = True
        self._wake()

    async def take(self) -> list[Output]:
        """Wait until there are outputs, and take all of them.

        :raises UnavailableError: when nothing more comes.
        """
        if not self._outputs:
            await self._wait()
        outputs, self._outputs = self._outputs, []
        return outputs

    async def pump(self, sink: Sink) -> None:
        """Pass outputs on as they come, without waking a task for each, until the sink says that it is enough.

        :raises UnavailableError: when nothing more comes.
        :raises Exception: what the sink raised.
        """
        if self._outputs:
            outputs, self._outputs = self._outputs, []
            if not sink(outputs):
                return
        self._sink = sink
        try:
            await self._wait()
        finally:
            self._sink = None

    async def _wait(self) -> None:
        if not self._is_cut_short:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._is_cut_short:
            raise UnavailableError("The server is shutting down")

    def _wake(self, error: Exception | None = None) -> None:
        if self._waiter is None or self._waiter.done():
            return
        if error is not None:
            self._waiter.set_exception(error)
        else:
            self._waiter.set_result(None)


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
        for mailbox in set(self._mailboxes.values()):
            mailbox.cut_short()

    def _sort(self, outputs: list[Output]) -> None:
        batches: dict[Mailbox, list[Output]] = {}
        for output in outputs:
            if mailbox := self._mailboxes.get(output.request_id):
                batches.setdefault(mailbox, []).append(output)
        for mailbox, batch in batches.items():
            mailbox.put(batch)
