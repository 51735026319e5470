"""The access log: a line of JSON for each request that is over. Never a prompt, never a key.

    a request ends -> its line is kept -> written every FLUSH_S, in a thread; a file that is full is put aside

    FILE  FILE.1  FILE.2  FILE.3      the newest first

Lines of a process that is killed are lost for as long as they are kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trtdisagg.errors import StartupError
from trtdisagg.proxy.records.record import Record

FLUSH_S = 0.5
MAX_FILE_BYTES = 64 * 1024 * 1024
NUM_OLD_FILES = 3
MAX_LINES = 100_000
"""That wait to be written; more are left out, and it is said how many."""
_MAX_MODEL_CHARS = 200

logger = logging.getLogger(__name__)


class Line(msgspec.Struct, kw_only=True, frozen=True):
    """What is said of a request; `docs/observability.md` explains each field."""

    time: str
    request_id: str
    client: str | None
    model: str
    route: str
    status: int
    error: str | None
    path: str | None
    servers: list[str]
    queue_ms: float | None
    ttft_ms: float | None
    e2e_ms: float
    num_events: int
    num_retries: int
    num_migrations: int
    num_replayed_tokens: int


class AccessLog:
    """
    :param where: a file, or `stderr`.
    :param worker: of several, each but the first has a file of its own: `access-1.log` beside `access.log`.
    """

    def __init__(self, where: str, worker: int = 0) -> None:
        path = None if where == "stderr" else Path(where)
        self._path = path.with_stem(f"{path.stem}-{worker}") if path is not None and worker else path
        self._encode = msgspec.json.Encoder().encode
        self._lines: list[bytes] = []
        self._num_left_out = 0
        # Clocks may be set while we run; then times jump once, as those of any log.
        self._second, self._date = 0, ""

    def add(self, record: Record) -> None:
        """Keep the line of a request."""
        if len(self._lines) >= MAX_LINES:
            self._num_left_out += 1
            return
        self._lines.append(self._encode(self._line(record)) + b"\n")

    def _line(self, record: Record) -> Line:
        arrived = record.arrived
        return Line(
            time=self._time(),
            request_id=record.request_id,
            client=record.client or None,
            model=record.model[:_MAX_MODEL_CHARS],
            route=record.route,
            status=record.status,
            error=record.error or None,
            path=record.path or None,
            servers=[leg.member.name for leg in record.legs],
            queue_ms=_ms(record.chosen, arrived),
            ttft_ms=_ms(record.first_token, arrived),
            e2e_ms=round((record.ended - arrived) * 1e3, 3),
            num_events=record.num_events,
            num_retries=record.num_retries,
            num_migrations=record.num_migrations,
            num_replayed_tokens=sum(leg.num_replayed_tokens for leg in record.legs),
        )

    def _time(self) -> str:
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
        return f"{self._date}.{int(now % 1 * 1000):03d}Z"

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """What is still kept at the end of the block is written.

        :raises StartupError: the file cannot be written.
        """
        try:
            self._append(b"")
        except OSError as e:
            raise StartupError(f"cannot write the access log {self._path}: {e.strerror or e}") from e
        try:
            yield
        finally:
            self._put(self._take())

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            if self._lines:
                await asyncio.to_thread(self._put, self._take())

    def _take(self) -> list[bytes]:
        """Those that are kept; on the loop, so that none is added behind the back of a thread that writes them."""
        lines, self._lines = self._lines, []
        return lines

    def _put(self, lines: list[bytes]) -> None:
        num_left_out, self._num_left_out = self._num_left_out, 0
        if num_left_out:
            logger.warning("the access log is too slow: %d requests are not in it", num_left_out)
        try:
            self._append(b"".join(lines))
        except OSError as e:
            logger.warning("%d requests are not in the access log: %s", len(lines), e)

    def _append(self, data: bytes) -> None:
        """Opened anew each time, so that a file that somebody has taken away is made again."""
        if self._path is None:
            _write(2, data)
            return
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            _write(fd, data)
            is_full = os.fstat(fd).st_size >= MAX_FILE_BYTES
        finally:
            os.close(fd)
        if is_full:
            self._put_aside(self._path)

    def _put_aside(self, path: Path) -> None:
        files = [path, *(path.with_name(f"{path.name}.{i}") for i in range(1, NUM_OLD_FILES + 1))]
        for i in range(NUM_OLD_FILES, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                files[i - 1].rename(files[i])


def _write(fd: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _ms(then: float, arrived: float) -> float | None:
    return round((then - arrived) * 1e3, 3) if then else None
