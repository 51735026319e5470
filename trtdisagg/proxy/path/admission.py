"""Requests that cannot go on now wait here: because no generation server has room, or because none is there while one
is about to come. Beyond a number of them, the next is refused at once.

    a line for each model: first by priority, then by arrival      begun answers have a line of their own, without bound
    less in flight on a server -> its model's line                 the roster has changed -> all lines

Whoever is at the head of a line is served when something has changed, and the next ones as long as they can be: nobody
else is woken, and nobody passes by. Servers are chosen (and counted on) here, for the one who waits; so what a change
gives is taken in the same moment. How one chooses is known by routing, what comes is known by the roster.
"""

from __future__ import annotations

import asyncio
import bisect
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from trtdisagg.errors import DeadlineError, OverloadedError, UnavailableError
from trtdisagg.protocol.control import Member
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.registry.members import Roster, Snapshot

SETTLE_S = 1.0
"""For a server in doubt to be trusted again, or to be taken back by its source, which may say that another comes."""
OTHERS_S = 0.05
"""Between two looks at a line, where other processes of the proxy may make room without a word."""

_NO_ROOM = "No generation server had room in time"

Chosen = TypeVar("Chosen")


class _Line(NamedTuple):
    model: str
    has_begun: bool


class _Waiter:
    """One request in a line; a Timed."""

    def __init__(
        self,
        admission: Admission,
        line: _Line,
        place: tuple[int, float, int],
        choose: Callable[[Snapshot], Any],
        due: float,
    ) -> None:
        loop = asyncio.get_running_loop()
        self._admission = admission
        self.line = line
        self.place = place
        """In it: by priority, then by arrival."""
        self.choose = choose
        self.last_due = due
        """Of the request."""
        self.settled_by = loop.time() + SETTLE_S
        self.due = due
        """For what it waits for now."""
        self.why: Exception = DeadlineError(_NO_ROOM)
        """What it is told when that is over."""
        self.settled: asyncio.Future[None] = loop.create_future()
        self.chosen: Any = None
        """None: it is told `why`."""

    def settle(self, chosen: Any = None) -> None:
        if not self.settled.done():
            self.chosen = chosen
            self.settled.set_result(None)

    def outcome(self) -> Any:
        if self.chosen is None:
            raise self.why
        return self.chosen

    def pass_by(self) -> None:
        self._admission.overdue(self)


def _place(waiter: _Waiter) -> tuple[int, float, int]:
    return waiter.place


class Admission:
    """All requests of this process that wait.

    :param max_waiting: new ones, of all models together.
    :param has_others: other processes ask the same servers.
    """

    def __init__(self, roster: Roster, deadlines: Deadlines, *, max_waiting: int, has_others: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._roster = roster
        self._deadlines = deadlines
        self._max_waiting = max_waiting
        self._has_others = has_others
        self._lines: dict[_Line, list[_Waiter]] = {}
        """Those who wait, in order; no line is empty."""
        self._num_ever = 0
        self._changed: set[_Line] = set()
        """Lines to be looked at in the loop's next round."""
        self._timer: asyncio.TimerHandle | None = None
        self.num_waiting = 0
        roster.watch(self._look_at_all)

    def at_once(self, choose: Callable[[Snapshot], Chosen | None]) -> Chosen | None:
        """Choose servers where nobody waits and some have room, as almost always; None: `admit` knows what to do.

        :param choose: as in `admit`; raises what that raises but for UnavailableError.
        """
        if self._lines:
            return None
        try:
            return choose(self._roster.snapshot)
        except UnavailableError:
            return None

    async def admit(
        self,
        choose: Callable[[Snapshot], Chosen | None],
        *,
        model: str,
        due: float,
        arrived: float = 0.0,
        priority: int = 0,
        has_begun: bool = False,
        may_refuse: bool = True,
    ) -> Chosen:
        """Choose servers, now or as soon as can be.

        :param choose: takes and counts; None: there is no room; raises UnavailableError when there is no server.
        :param due: how long to wait, on the loop's clock.
        :param arrived: when the request came: the earlier, the sooner.
        :param priority: the higher, the sooner.
        :param has_begun: the client has a part of the answer.
        :param may_refuse: False: it is not new.
        :raises OverloadedError: too many wait.
        :raises UnavailableError: when nothing comes, or not in time.
        :raises DeadlineError: when there is no room in time.
        """
        self._num_ever += 1
        waiter = _Waiter(self, _Line(model, has_begun), (-priority, arrived, self._num_ever), choose, due)
        if waiter.line not in self._lines and self._settle(waiter):
            return waiter.outcome()  # type: ignore[no-any-return]
        if may_refuse and not has_begun and self.num_waiting >= self._max_waiting:
            raise OverloadedError(f"{self.num_waiting} requests wait already; ask again later")
        self._join(waiter)
        try:
            await waiter.settled
        finally:
            self._leave(waiter)
        return waiter.outcome()  # type: ignore[no-any-return]

    def num_waiting_by_model(self) -> dict[str, int]:
        counts: Counter[str] = Counter()
        for line, waiters in self._lines.items():
            counts[line.model] += len(waiters)
        return dict(counts)

    def has_room(self, member: Member) -> None:
        """Less is in flight on a server."""
        if self._lines and member.role != "context" and (line := _Line(member.model, has_begun=False)) in self._lines:
            self._look_soon(line)

    def overdue(self, waiter: _Waiter) -> None:
        """What a request waits for has not come; it may be that it waits for something else now."""
        if waiter.due >= waiter.last_due or (not self._settle(waiter) and waiter.due <= self._loop.time()):
            waiter.settle()
        if waiter.settled.done():
            self._leave(waiter)

    # --- lines ------------------------------------------------------------------------------------------------------

    def _join(self, waiter: _Waiter) -> None:
        line = self._lines.setdefault(waiter.line, [])
        bisect.insort(line, waiter, key=_place)
        self.num_waiting += 1
        self._deadlines.add(waiter)
        if line[0] is waiter:
            self._look_soon(waiter.line)  # it may ask for less than the one behind it, that was the first until now
        if self._has_others and self._timer is None:
            self._timer = self._loop.call_later(OTHERS_S, self._look_again)

    def _leave(self, waiter: _Waiter) -> None:
        """If it is still there; the next one has its place then."""
        line = self._lines.get(waiter.line, [])
        if waiter in line:
            if line[0] is waiter:
                self._look_soon(waiter.line)
            self._remove(waiter)

    def _remove(self, waiter: _Waiter) -> None:
        line = self._lines[waiter.line]
        line.remove(waiter)
        if not line:
            del self._lines[waiter.line]
        self.num_waiting -= 1
        self._deadlines.remove(waiter)

    def _look_soon(self, line: _Line) -> None:
        if not self._changed:
            self._loop.call_soon(self._look)
        self._changed.add(line)

    def _look_again(self) -> None:
        self._timer = self._loop.call_later(OTHERS_S, self._look_again) if self._lines else None
        self._look_at_all()

    def _look(self) -> None:
        changed, self._changed = self._changed, set()
        for line in changed:
            self._serve(line)

    def _look_at_all(self) -> None:
        for line in self._lines:
            self._look_soon(line)

    def _serve(self, line: _Line) -> None:
        """Settle those at the head, up to the first that has to wait on."""
        for waiter in list(self._lines.get(line, ())):
            if not waiter.settled.done() and not self._settle(waiter) and waiter.due == waiter.last_due:
                return
            if waiter.settled.done():
                self._remove(waiter)

    # --- one of them ------------------------------------------------------------------------------------------------

    def _settle(self, waiter: _Waiter) -> bool:
        """Choose for one; False: it has to wait, until `due`."""
        snapshot = self._roster.snapshot
        try:
            chosen = waiter.choose(snapshot)
        except UnavailableError as e:
            waiter.why = e
            if not self._may_come(waiter, snapshot):
                waiter.settle()
        except Exception as e:  # noqa: BLE001 (it is the waiter's)
            waiter.why = e
            waiter.settle()
        else:
            if chosen is not None:
                waiter.settle(chosen)
            else:
                waiter.due, waiter.why = waiter.last_due, DeadlineError(_NO_ROOM)
        return waiter.settled.done()

    def _may_come(self, waiter: _Waiter, snapshot: Snapshot) -> bool:
        """There is no server: whether there may be one, which it then waits for. Who has begun has just lost one, and
        its source may still have to say that another comes."""
        if "generation" in snapshot.coming.get(waiter.line.model, ()):
            waiter.due = waiter.last_due
        elif waiter.line.has_begun or "generation" in snapshot.doubted.get(waiter.line.model, ()):
            waiter.due = min(waiter.last_due, waiter.settled_by)
        else:
            return False
        return True
