"""Identifiers the proxy gives out: of answers, of attempts at a handover, of requests in logs."""

from __future__ import annotations

import os
import random
import re
import socket
import time
import zlib

from trtdisagg.protocol.proxy_spec import ProxySpec

_EPOCH_MS = 1_704_067_200_000
"""2024-01-01; 39 bits of milliseconds reach to 2041."""
_NUM_IN_A_MS = 1024
_REQUEST_ID = re.compile(r"[!-~]{1,128}")


class DisaggIds:
    """Ids for `disagg_request_id`, unique for each attempt in the whole cluster, in TensorRT-LLM's form.

    39 bits milliseconds | 8 bits node | 6 bits process | 10 bits counter        always >= 2^40
    """

    def __init__(self, node: int | None = None, process: int | None = None) -> None:
        node = zlib.crc32(socket.gethostname().encode()) if node is None else node
        process = os.getpid() if process is None else process
        self._low = ((node & 0xFF) << 6 | (process & 0x3F)) << 10
        self._ms = 0
        self._count = 0

    def next(self, unix_s: float | None = None) -> int:
        """Make an id that is larger than all before it."""
        now_ms = int((time.time() if unix_s is None else unix_s) * 1000) - _EPOCH_MS
        if now_ms > self._ms:
            self._ms, self._count = now_ms, 0
        elif self._count + 1 < _NUM_IN_A_MS:
            self._count += 1
        else:
            # More than the counter holds, or a clock that went back: borrowed from the next millisecond.
            self._ms, self._count = self._ms + 1, 0
        return self._ms << 24 | self._low | self._count


def process_of(spec: ProxySpec) -> int | None:
    """What tells this process from others in its ids; None: its pid.

    Pids of the processes of one proxy may be equal in the bits that ids have room for; columns that they have at one
    time are not, up to 64 of them. Another agent on this host may serve the same servers: so the agent's pid is in it.
    """
    return None if spec.load_file is None else (spec.parent_pid or 0) + spec.load_column


def make_id() -> str:
    """96 random bits as hex: unique, not secret."""
    return f"{random.getrandbits(96):024x}"


def request_id(wish: str | None) -> str:
    """The client's X-Request-Id if it can be passed on, otherwise a new one."""
    if wish is not None and _REQUEST_ID.fullmatch(wish):
        return wish
    return make_id()
