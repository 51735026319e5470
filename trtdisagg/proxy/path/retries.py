"""How often requests are tried again: each one, and all of them together. Values and arithmetic; nothing waits here.

the server has not seen it    again, at no cost: that server is not routed to any more
no first token yet            `max_retries`
behind the first token        `max_migrations`: the answer goes on elsewhere
the server answered, but      beside that, a share of all requests: servers that are there and fail are what makes
with an error                 a storm of retries, and it only makes them fail more
"""

from __future__ import annotations

import time

from trtdisagg.proxy.path.failures import LegFailedError

MAX_UNSEEN = 16
"""Of one request: more servers than that are not taken out of routing one after the other."""
FLOOR_PER_S = 10.0
"""Retries that are there however few requests come."""
MAX_SAVED = 100.0
"""Retries that are saved up for a bad moment."""


class RetryBudget:
    """What all requests of this process may be tried again.

    :param share: of a retry that each request adds.
    """

    def __init__(self, share: float, now: float) -> None:
        self._share = share
        self._saved = MAX_SAVED
        self._since = now

    def add_request(self) -> None:
        self._saved += self._share

    def take(self, now: float) -> bool:
        """Spend one; False: there is none."""
        self._saved = min(MAX_SAVED, self._saved + (now - self._since) * FLOOR_PER_S)
        self._since = now
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


class Retries:
    """What is left to one request."""

    __slots__ = ("_budget", "_num_migrations", "_num_retries", "_num_unseen")

    def __init__(self, budget: RetryBudget, max_retries: int, max_migrations: int) -> None:
        budget.add_request()
        self._budget = budget
        self._num_retries = max_retries
        self._num_migrations = max_migrations
        self._num_unseen = MAX_UNSEEN

    def take(self, failure: LegFailedError, *, has_begun: bool) -> bool:
        """Spend one for a leg that failed; False: there is none.

        :param has_begun: the answer has a first token.
        """
        if failure.is_unseen:
            self._num_unseen -= 1
            return self._num_unseen >= 0
        if has_begun:
            self._num_migrations -= 1
        else:
            self._num_retries -= 1
        if self._num_migrations < 0 or self._num_retries < 0:
            return False
        return failure.status is None or self._budget.take(time.monotonic())
