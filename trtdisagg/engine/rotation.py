"""Executors of one phase that take turns."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from trtdisagg.engine.request import Request
from trtdisagg.errors import OverloadedError, TrtdisaggError, UnavailableError


class TakesRequests(Protocol):
    """What is asked of an executor."""

    def check(self, request: Request) -> None: ...
    def enqueue_request(self, request: Request) -> int: ...
    def cancel_request(self, request_id: int) -> None: ...
    def health(self) -> str | None: ...


class Member(NamedTuple):
    name: str
    executor: TakesRequests


class Rotation:
    """One caller at a time."""

    def __init__(self) -> None:
        self.members: list[Member] = []
        self._num_turns = 0

    def enqueue(self, request: Request) -> Member:
        """Hand a request to the next executor that is healthy and takes it.

        :raises RequestError: as its `enqueue_request`.
        :raises OverloadedError: when queues are full.
        :raises UnavailableError: when there is no healthy one.
        """
        refusals: list[TrtdisaggError] = []
        for _ in self.members:
            member = self.members[self._num_turns % len(self.members)]
            self._num_turns += 1
            try:
                _check_health(member)
                member.executor.enqueue_request(request)
            except (OverloadedError, UnavailableError) as e:
                refusals.append(e)
            else:
                return member
        raise next((e for e in refusals if isinstance(e, OverloadedError)), refusals[-1])


def _check_health(member: Member) -> None:
    if reason := member.executor.health():
        raise UnavailableError(f"{member.name}: {reason}")
