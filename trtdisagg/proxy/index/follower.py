"""One server's block events: a connection that stays open, a snapshot, and what changes since (protocol/kv_events.py).

Whatever goes wrong (a gap, silence, another incarnation, a broken connection), what was known is forgotten, and all
begins anew after a pause. A server that has no such stream is asked again now and then: it may be another one by then.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from typing import Literal

import msgspec

from trtdisagg.protocol import WIRE_VERSION
from trtdisagg.protocol.control import Member
from trtdisagg.protocol.frames import FrameReader
from trtdisagg.protocol.http1 import BadAnswerError
from trtdisagg.protocol.kv_events import KvChange, KvSnapshot
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.proxy.http.pool import Pool, UnreachableError
from trtdisagg.proxy.http.upstream import BrokenError
from trtdisagg.proxy.index.blocks import Blocks
from trtdisagg.text.block_hash import keys

SNAPSHOT_TIMEOUT_S = 30.0
"""The engine makes it between two steps, and a step may be long."""
SILENCE_S = 3.0
"""Then a server says something each second."""
FIRST_DELAY_S, MAX_DELAY_S = 0.1, 5.0
NO_EVENTS_DELAY_S = 30.0
MAX_MESSAGE_BYTES = 256 * 1024 * 1024
AT_ONCE = 8192
"""Blocks that are taken from a snapshot before others have their turn: about a millisecond."""
NO_EVENTS = (404, 405, 501)

State = Literal["connecting", "following", "no_events"]

logger = logging.getLogger(__name__)


class _LostError(Exception):
    """What is known of the server is of no use any more."""


class Follower:
    """
    :param on_change: called when there are blocks, or none any more.
    :ivar blocks: None: nobody knows what the server has.
    :ivar heard_at: when it said something, or was looked for first; on the loop's clock.
    :ivar num_lost: how often what was known had to be forgotten.
    """

    def __init__(self, member: Member, pool: Pool, deadlines: Deadlines, on_change: Callable[[], None]) -> None:
        self.member = member
        self.blocks: Blocks | None = None
        self.state: State = "connecting"
        self.num_lost = 0
        self._pool = pool
        self._deadlines = deadlines
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self._decoder: msgspec.msgpack.Decoder[KvSnapshot | KvChange] = msgspec.msgpack.Decoder(KvSnapshot | KvChange)
        self._sequence = 0

    async def run(self) -> None:
        """Follow until cancelled."""
        delay_s = 0.0
        while True:
            try:
                await self._follow()
            except (_LostError, UnreachableError, BrokenError, BadAnswerError, ValueError) as e:
                self._say(str(e))
            except TimeoutError:
                self._say("nothing came for too long")
            finally:
                was_following = self._forget()
            delay_s = FIRST_DELAY_S if was_following else min(max(FIRST_DELAY_S, 2 * delay_s), MAX_DELAY_S)
            pause_s = NO_EVENTS_DELAY_S if self.state == "no_events" else delay_s
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))

    async def _follow(self) -> None:
        async with (
            self._deadlines.by(self._loop.time() + SNAPSHOT_TIMEOUT_S) as silence,
            self._pool.exchange(self.member.url, "GET", "/kv_events") as (head, connection),
        ):
            if head.status in NO_EVENTS:
                self._has_no_events()
                return
            if head.status != 200:
                raise _LostError(f"status {head.status}")
            frames = FrameReader(MAX_MESSAGE_BYTES)
            while piece := await connection.next_piece():
                for message in frames.feed(piece):
                    await self._take(self._decoder.decode(message))
                if self.blocks is not None:
                    self.heard_at = self._loop.time()
                    silence.due = self.heard_at + SILENCE_S
            raise _LostError("its stream has ended")

    async def _take(self, message: KvSnapshot | KvChange) -> None:
        if isinstance(message, KvSnapshot):
            await self._begin(message)
        elif self.blocks is None or message.sequence != self._sequence + 1:
            raise _LostError(f"message {message.sequence} came after {self._sequence}")
        else:
            self.blocks.remove(keys(message.removed))
            self.blocks.add(keys(message.stored))
        self._sequence = message.sequence

    async def _begin(self, snapshot: KvSnapshot) -> None:
        if snapshot.wire_version != WIRE_VERSION:
            raise _LostError(f"it speaks version {snapshot.wire_version}, here is {WIRE_VERSION}")
        if self.member.incarnation not in ("", snapshot.incarnation):
            raise _LostError(f"another one answers at its address: {snapshot.incarnation}")
        blocks, all_keys = Blocks((snapshot.root_model, snapshot.tokens_per_block)), keys(snapshot.hashes)
        for start in range(0, len(all_keys), AT_ONCE):
            blocks.add(all_keys[start : start + AT_ONCE])
            await asyncio.sleep(0)
        self.blocks, self.state = blocks, "following"
        self._on_change()

    def _has_no_events(self) -> None:
        if self.state != "no_events":
            logger.warning("%s tells nothing of its cache: it is routed to by its load", self.member.name)
        self.state = "no_events"

    def _say(self, why: str) -> None:
        if self.state == "following":
            logger.warning("what %s has in its cache is not known any more: %s", self.member.name, why)
        self.state = "connecting"

    def _forget(self) -> bool:
        """Returns whether there was something to forget."""
        was_following, self.blocks = self.blocks is not None, None
        self.num_lost += was_following
        if was_following:
            self._on_change()
        return was_following
