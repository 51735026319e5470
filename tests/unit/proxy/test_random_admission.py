"""Random histories of requests and servers: nobody waits who could go on, no server gets more than it has room for."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.control import Member
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.proxy.members.uses import Claim, Uses
from trtdisagg.proxy.path.admission import Admission
from trtdisagg.proxy.routing.ask import Ask, View
from trtdisagg.proxy.routing.choose import Route, choose
from trtdisagg.registry.members import Roster, Snapshot

SERVERS = [
    Member(
        name=f"{model}-{i}",
        role="generation",
        model=model,
        url=f"{model}:{i}",
        max_batch_size=2,
        num_blocks=10,
        tokens_per_block=10,
    )
    for model in ("a", "b")
    for i in range(2)
]
MAX_REQUESTS, MAX_TOKENS = 3, 200
"""On each, unless there is one alone."""
COMING: Any = {"a": ["generation"], "b": ["generation"]}

MODELS = st.sampled_from(["a", "b"])
ARRIVES = st.tuples(st.just("arrive"), MODELS, st.integers(-1, 1), st.sampled_from([10, 60, 120, 300]))
STEPS = st.lists(
    st.one_of(
        ARRIVES,
        ARRIVES,
        ARRIVES,
        st.tuples(st.just("end"), st.integers(0, 50)),
        st.tuples(st.just("leave"), st.integers(0, 50)),
        st.tuples(st.just("servers"), st.sets(st.sampled_from(range(4)))),
    ),
    min_size=20,
    max_size=60,
)


class World:
    """Requests, each a task, before one admission."""

    def __init__(self) -> None:
        self.roster = Roster()
        self.uses = Uses(self.roster)
        self.admission = Admission(self.roster, Deadlines(), max_waiting=1000)
        self.uses.watch(self.admission.has_room)
        self.view = View(self.uses.load, lambda *_: None)
        self.waiting: dict[int, tuple[str, int, int]] = {}
        """Number of the request -> model, priority and tokens."""
        self.running: dict[int, asyncio.Event] = {}
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.served: list[tuple[int, str, int]] = []

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    def arrive(self, model: str, priority: int, num_tokens: int) -> None:
        number = len(self.tasks)
        self.tasks[number] = asyncio.create_task(self._run(number, model, priority, num_tokens))

    async def _run(self, number: int, model: str, priority: int, num_tokens: int) -> None:
        ask = Ask(model=model, turn=number, num_prompt_tokens=num_tokens)
        self.waiting[number] = model, priority, num_tokens
        with self.uses.claim(ask) as claim:
            try:
                await self.admission.admit(
                    lambda now: self._choose(now, ask, claim),
                    model=model,
                    due=asyncio.get_running_loop().time() + 1000,
                    arrived=float(number),
                    priority=priority,
                )
            finally:
                del self.waiting[number]
            self.served.append((number, model, priority))
            self.running[number] = asyncio.Event()
            try:
                await self.running[number].wait()
            finally:
                del self.running[number]

    def _choose(self, now: Snapshot, ask: Ask, claim: Claim) -> Route | None:
        if (route := choose(now, ask, self.view)) is not None:
            claim.take(route.context, route.generation)
        return route

    def check(self) -> None:
        assert self.admission.num_waiting == len(self.waiting)
        assert sum(self.uses.in_use().values()) == len(self.running)
        for member in SERVERS:
            load = self.uses.load(member)
            assert load.num_requests <= MAX_REQUESTS
            assert load.num_requests == 1 or load.num_tokens <= MAX_TOKENS
        for model in ("a", "b"):
            line = [(-priority, n, tokens) for n, (of, priority, tokens) in self.waiting.items() if of == model]
            assert not line or not self._could_go_on(model, min(line)[2]), "the first one waits for nothing"

    def _could_go_on(self, model: str, num_tokens: int) -> bool:
        ask = Ask(model=model, num_prompt_tokens=num_tokens)
        try:
            return choose(self.roster.snapshot, ask, self.view) is not None
        except TrtdisaggError:
            return False


@settings(max_examples=60)
@given(STEPS)
def test_random_histories(steps: list[tuple[Any, ...]]) -> None:
    asyncio.run(_live(steps))


async def _live(steps: list[tuple[Any, ...]]) -> None:
    world = World()
    world.roster.replace("agent", SERVERS[::2], coming=COMING)
    for step in steps:
        match step:
            case "arrive", model, priority, num_tokens:
                world.arrive(model, priority, num_tokens)
            case "end", which if world.running:
                list(world.running.values())[which % len(world.running)].set()
            case "leave", which if world.waiting:
                world.tasks[list(world.waiting)[which % len(world.waiting)]].cancel()
            case "servers", numbers:
                world.roster.replace("agent", [SERVERS[i] for i in numbers], coming=COMING)
        before, num_served = set(world.waiting), len(world.served)
        await world.settle()
        world.check()
        _check_order(world.served[num_served:], before, world.waiting)
    await _end(world)


def _check_order(
    served: list[tuple[int, str, int]], before: Collection[int], left: dict[int, tuple[str, int, int]]
) -> None:
    """Requests were served by priority, then as they came, and none of those that wait on was passed by."""
    for model in ("a", "b"):
        order = [(-priority, number) for number, of, priority in served if of == model]
        behind = [(-priority, number) for number, (of, priority, _) in left.items() if of == model and number in before]
        assert order == sorted(order)
        assert not order or not behind or order[-1] < min(behind)


async def _end(world: World) -> None:
    """All that is left is served and ends, when there are servers."""
    world.roster.replace("agent", SERVERS, coming=COMING)
    while any(not task.done() for task in world.tasks.values()):
        await world.settle()
        world.check()
        for over in world.running.values():
            over.set()
    assert world.uses.in_use() == {}
    assert world.admission.num_waiting == 0
