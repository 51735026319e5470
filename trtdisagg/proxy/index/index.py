"""All servers whose blocks a router wants to know: who is followed, and what routing asks of it.

A prompt counts on its server from the moment it is routed: one that begins alike goes there, too, though no event has
come yet.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import ANY_MODEL, ModelSpec
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.proxy.http.pool import Pool
from trtdisagg.proxy.index.blocks import Blocks, Root
from trtdisagg.proxy.index.follower import Follower, State
from trtdisagg.proxy.routing.ask import Ask
from trtdisagg.registry.members import Roster

EXPECTED_S = 10.0
"""For a server to compute a prompt and tell; until then it counts as if it had."""
PATIENCE_S = 5.0
"""For a server to tell what it has, before somebody is told that it does not."""
USES_CACHE = ("kv_cache_aware", "session")
"""Routers that look at what servers have."""

_PLAIN = ModelSpec()

logger = logging.getLogger(__name__)


class Followed(NamedTuple):
    """What is known of a server's cache."""

    member: Member
    state: State
    num_blocks: int
    silent_s: float
    """Since it said something."""
    num_lost: int
    """How often what was known had to be forgotten."""


class Index:
    """
    :param models: by name; servers of those whose prompts are not read here are not followed.
    """

    def __init__(self, models: Mapping[str, ModelSpec], roster: Roster, pool: Pool, deadlines: Deadlines) -> None:
        self._loop = asyncio.get_running_loop()
        self._models = models
        self._roster = roster
        self._pool = pool
        self._deadlines = deadlines
        self._followers: dict[str, tuple[Follower, asyncio.Task[None]]] = {}
        """By what tells a server from the one that comes after it."""
        self._roots: dict[str, tuple[Root, ...]] = {}
        """By model, of the servers that are followed."""
        self._changed = asyncio.Event()
        roster.watch(self._changed.set)
        for name, model in models.items():
            if model.reads_prompts and model.model_path is None:
                logger.warning("Prompts for `%s` are not read, its tokenizer is not here: load decides", name)

    # --- what routing asks ------------------------------------------------------------------------------------------

    def roots(self, model: str) -> Sequence[Root]:
        """The kinds of chains that the model's servers know blocks by."""
        return self._roots.get(model, ())

    def match(self, member: Member, ask: Ask) -> int | None:
        """How many tokens of a prompt a server has in its cache; None: nobody knows."""
        blocks = self._blocks(member)
        if blocks is None or (chain := ask.chains.get(blocks.root)) is None:
            return None
        return blocks.num_found(chain, self._loop.time()) * blocks.root[1]

    def expect(self, ask: Ask, *members: Member | None) -> None:
        """A prompt was routed to these servers."""
        now = self._loop.time()
        for member in members:
            blocks = None if member is None else self._blocks(member)
            if blocks is not None and (chain := ask.chains.get(blocks.root)):
                blocks.expect(chain, now, now + EXPECTED_S)

    def _blocks(self, member: Member) -> Blocks | None:
        followed = self._followers.get(member.identity)
        return None if followed is None else followed[0].blocks

    def followed(self) -> list[Followed]:
        """All servers that should be followed, and how it stands with them."""
        now = self._loop.time()
        return [
            Followed(f.member, f.state, 0 if f.blocks is None else len(f.blocks), now - f.heard_at, f.num_lost)
            for f, _ in self._followers.values()
        ]

    def num_unknown(self) -> int:
        """Servers whose caches routers look at, of which nothing has been known for a while, or nobody could use it."""
        silent = sum(f.state != "following" and f.silent_s > PATIENCE_S for f in self.followed())
        unread = sum(self._is_asked_for(m) and self._spec(m).model_path is None for m in self._roster.members)
        return silent + unread

    # --- who is followed --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._changed.clear()
                self._look(tasks)
                await self._changed.wait()

    def _look(self, tasks: asyncio.TaskGroup) -> None:
        wanted = {member.identity: member for member in self._roster.members if self._is_wanted(member)}
        for identity in self._followers.keys() - wanted.keys():
            self._followers.pop(identity)[1].cancel()
        for identity, member in wanted.items():
            if identity not in self._followers:
                follower = Follower(member, self._pool, self._deadlines, self._note_roots)
                self._followers[identity] = follower, tasks.create_task(follower.run())
        self._note_roots()

    def _is_wanted(self, member: Member) -> bool:
        return self._spec(member).model_path is not None and self._is_asked_for(member)

    def _is_asked_for(self, member: Member) -> bool:
        """Whether a router looks at its cache."""
        model = self._spec(member)
        computes = member.role != "generation" and model.context_router.type in USES_CACHE
        generates = member.role != "context" and (
            model.generation_router.type in USES_CACHE or model.max_local_prefill_length is not None
        )
        return computes or generates

    def _spec(self, member: Member) -> ModelSpec:
        return self._models.get(member.model) or self._models.get(ANY_MODEL) or _PLAIN

    def _note_roots(self) -> None:
        roots: dict[str, dict[Root, None]] = {}
        for follower, _ in self._followers.values():
            if follower.blocks is not None:
                roots.setdefault(follower.member.model, {})[follower.blocks.root] = None
        self._roots = {model: tuple(found) for model, found in roots.items()}
