"""Asks each server for one token now and then, to see that it still can: `GET /health_generate`.

A health page may answer while the part that computes does not; a token does not lie.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import aiohttp
import anyio

from trtdisagg.config.supervisor_keys import SupervisionConfig
from trtdisagg.protocol.control import Member
from trtdisagg.supervisor.events import Canary, Event

_PATH = "/health_generate"
_MAX_REASON_CHARS = 200
_LOOK_AGAIN_S = 1.0


class Canaries:
    """
    :param members: the servers to ask, where there is something to ask.
    :param rules: what is wanted now; it changes when the file is applied anew.
    :param secret: of the cluster; empty: it has none.
    :param on_event: called with each answer.
    """

    def __init__(
        self,
        members: Callable[[], list[Member]],
        rules: Callable[[], SupervisionConfig],
        secret: str,
        on_event: Callable[[Event], None],
    ) -> None:
        self._members = members
        self._rules = rules
        self._secret = secret
        self._on_event = on_event

    async def run(self) -> None:
        """Ask again and again, until cancelled."""
        headers = {"Authorization": f"Bearer {self._secret}"} if self._secret else {}
        async with aiohttp.ClientSession(headers=headers) as session:
            while True:
                interval_s = self._rules().canary_interval_s
                await anyio.sleep(interval_s or _LOOK_AGAIN_S)
                if interval_s is not None:
                    await self._ask_all(session)

    async def _ask_all(self, session: aiohttp.ClientSession) -> None:
        async with anyio.create_task_group() as tasks:
            for member in self._members():
                tasks.start_soon(self._ask, session, member)

    async def _ask(self, session: aiohttp.ClientSession, member: Member) -> None:
        timeout_s = self._rules().canary_timeout_s
        error = None
        try:
            timeout = aiohttp.ClientTimeout(total=timeout_s)
            async with session.get(f"http://{member.url}{_PATH}", timeout=timeout) as answer:
                text = await answer.text(errors="replace")
                if answer.status != 200:
                    error = f"{answer.status} {text[:_MAX_REASON_CHARS]}"
        except TimeoutError:
            error = f"none within {timeout_s:g} s"
        except aiohttp.ClientError as e:
            error = str(e) or type(e).__name__
        at = time.monotonic()
        self._on_event(Canary(at=at, name=member.name, incarnation=member.incarnation, error=error))
