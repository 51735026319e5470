"""Beats to the agent, twice a second, from a thread that does nothing else.

So they tell that the process lives, whatever its loops do: a burst of requests or a long step does not stop them, a
frozen process sends none. What the loops do is what a beat says.
"""

from __future__ import annotations

import faulthandler
import logging
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from trtdisagg.engine.progress import Pulse
from trtdisagg.protocol.reports import Beat, Reporter
from trtdisagg.protocol.stats import Stats

log = logging.getLogger(__name__)

BEAT_S = 0.5
STUCK_S = 2.0
"""Standing still for so long is worth a look at where each thread is."""


class Vitals:
    """Several loops as one: progress is made only while each that works makes some."""

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._progress = 0

    def look(self, pulses: Sequence[Pulse]) -> Pulse:
        moved = [max(0, pulse.num_ticks - self._counts.get(i, 0)) for i, pulse in enumerate(pulses)]
        self._counts = {i: pulse.num_ticks for i, pulse in enumerate(pulses)}
        if all(steps or not pulse.is_working for steps, pulse in zip(moved, pulses, strict=True)):
            self._progress += sum(moved)
        return Pulse(self._progress, any(pulse.is_working for pulse in pulses))


class Beats:
    """Sent from `with` on until its end.

    :param stats: asked for each beat; must not wait, as `pulses` must not.
    """

    def __init__(self, reporter: Reporter, stats: Callable[[], Stats], pulses: Sequence[Callable[[], Pulse]]) -> None:
        self._reporter = reporter
        self._stats = stats
        self._pulses = pulses
        self._vitals = Vitals()
        self._stuck = Stuck()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beats", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        is_over = False
        while not is_over:
            try:
                self._beat()
            except Exception:  # one beat less, and the next may come
                log.exception("a beat failed")
            is_over = self._ended.wait(BEAT_S)  # what was missed is not made up for: two at once say nothing

    def _beat(self) -> None:
        pulse = self._vitals.look([look() for look in self._pulses])
        self._reporter.send(Beat(stats=self._stats(), progress=pulse.num_ticks, is_working=pulse.is_working))
        if self._stuck.begins(pulse, time.monotonic()):
            log.error("no progress for %.0f s while there is work; where each thread is, on stderr", STUCK_S)
            faulthandler.dump_traceback(all_threads=True)


class Stuck:
    """Notices when a loop begins to be stuck, once."""

    def __init__(self) -> None:
        self._count = -1
        self._since = 0.0
        self._is_said = False

    def begins(self, pulse: Pulse, now: float) -> bool:
        if pulse.num_ticks != self._count or not pulse.is_working:
            self._count, self._since, self._is_said = pulse.num_ticks, now, False
        elif not self._is_said and now - self._since >= STUCK_S:
            self._is_said = True
            return True
        return False
