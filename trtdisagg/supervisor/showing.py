"""Shows what is so to those who look: the screen, the service manager, and who follows the status."""

from __future__ import annotations

import time
from collections.abc import Callable

from trtdisagg.protocol.control import ClusterStatus
from trtdisagg.supervisor.notify import Notifier
from trtdisagg.supervisor.status_feed import StatusFeed

_SHOW_S = 1.0
"""Between two statuses in which only counters have changed."""
_TELL_S = 5.0
"""The same, where only the service manager gets them."""


class Showing:
    """
    :param status: makes one.
    :param on_status: the screen; None: there is none.
    """

    def __init__(
        self,
        status: Callable[[], ClusterStatus],
        feed: StatusFeed,
        notifier: Notifier,
        on_status: Callable[[ClusterStatus], None] | None,
    ) -> None:
        self._status = status
        self._feed = feed
        self._notifier = notifier
        self._on_status = on_status
        self._shown_at = self._touched_at = 0.0

    def counters_changed(self, now: float) -> None:
        """Show it if the last time is long ago."""
        if now > self._touched_at + _SHOW_S:
            self._touched_at = now
            self._feed.touch()
        if now > self._shown_at + (_TELL_S if self._on_status is None else _SHOW_S):
            self.show()

    def show(self) -> None:
        """Show it now; where nobody looks, no status is made."""
        self._shown_at = self._touched_at = time.monotonic()
        self._feed.touch()
        if self._on_status is None and not self._notifier.is_heard:
            return
        status = self._status()
        self._notifier.tell(status)
        if self._on_status is not None:
            self._on_status(status)
