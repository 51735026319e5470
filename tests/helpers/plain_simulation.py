"""The same clusters as bench/advise simulates, one step after the other: slow, and simple enough to be believed.

Each server plans a step as the engine does, every stream's every token has its own entry, and time goes from one event
to the next with nothing summed up.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from trtdisagg.bench.advise.cost import num_pairs
from trtdisagg.bench.advise.load import Load
from trtdisagg.bench.advise.simulate import ROOM_BATCHES, Design, Servers


@dataclass(eq=False)
class Request:
    number: int
    num_prompt: int
    num_output: int
    num_known: int = 0
    num_computed: int = 0
    is_handed: bool = False
    arrived: float = 0.0
    tokens: list[float] = field(default_factory=list)
    """When each came."""
    places: tuple[int, int] = (0, 0)
    """Its context and its generation server."""

    @property
    def is_over(self) -> bool:
        return self.num_known == self.num_prompt + self.num_output


@dataclass(eq=False)
class Server:
    servers: Servers
    hands_over: bool
    waiting: list[Request] = field(default_factory=list)
    context: list[Request] = field(default_factory=list)
    generating: list[Request] = field(default_factory=list)
    fetching: list[Request] = field(default_factory=list)
    joining: list[Request] = field(default_factory=list)
    held: list[Request] = field(default_factory=list)
    is_stepping: bool = False
    fetches_until: float = 0.0
    num_preemptions: int = 0

    def taken(self, request: Request) -> int:
        """KV tokens that a request has, or needs to begin."""
        slack = self.servers.tokens_per_block // 2
        if self.hands_over:
            return request.num_prompt + slack
        if self.servers.reserves:
            return request.num_prompt + request.num_output + slack
        return request.num_known + slack

    @property
    def num_taken(self) -> int:
        everybody = [*self.context, *self.generating, *self.fetching, *self.joining, *self.held]
        return sum(map(self.taken, everybody))

    @property
    def num_running(self) -> int:
        return len(self.context) + len(self.generating)


class PlainSimulation:
    def __init__(self, design: Design, load: Load) -> None:
        self.design = design
        self.load = load
        lengths = zip(load.num_prompt.tolist(), load.num_output.tolist(), strict=True)
        self.requests = [Request(n, i, o, num_known=i) for n, (i, o) in enumerate(lengths)]
        context = design.context
        self.context = [Server(context, hands_over=True) for _ in range(context.num)] if context else []
        self.generation = [Server(design.generation, hands_over=False) for _ in range(design.generation.num)]
        self.turns = {"context": 0, "generation": 0}
        self.counts = {"context": [0] * len(self.context), "generation": [0] * len(self.generation)}
        self.promised = [0] * len(self.generation)
        self.line: list[Request] = []
        self.events: list[tuple[float, int, Callable[[float], None]]] = []
        self.numbers = count()
        self.to_come = iter(self.requests)

    def run(self) -> list[Request]:
        if self.load.concurrency is None:
            for arrival, request in zip(self.load.arrivals.tolist(), self.requests, strict=True):
                self.at(arrival, self.arriver(request))
        else:
            for _ in range(self.load.concurrency):
                self.ask_next(0.0)
        while self.events:
            now, _, happen = heapq.heappop(self.events)
            happen(now)
        return self.requests

    def at(self, time: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self.events, (time, next(self.numbers), happen))

    # --- clients and proxy --------------------------------------------------------------------------------------------

    def ask_next(self, now: float) -> None:
        if request := next(self.to_come, None):
            self.at(now, self.arriver(request))

    def arriver(self, request: Request) -> Callable[[float], None]:
        def arrive(now: float) -> None:
            request.arrived = now
            self.line.append(request)
            self.serve_line(now)

        return arrive

    def serve_line(self, now: float) -> None:
        while self.line:
            request = self.line[0]
            place = self.pick("generation", [self.has_room(i, request) for i in range(len(self.generation))])
            if place is None:
                return
            self.line.pop(0)
            self.promised[place] += request.num_prompt + request.num_output
            first = self.pick("context", [True] * len(self.context))
            request.places = (first or 0, place)
            server = self.generation[place] if first is None else self.context[first]
            self.at(now + self.request_s, lambda t, s=server, r=request: self.add(s, r, t))  # type: ignore[misc]

    @property
    def request_s(self) -> float:
        return self.design.proxy_s + (self.design.context or self.design.generation).cost.request_s

    def has_room(self, place: int, request: Request) -> bool:
        servers, num = self.design.generation, self.counts["generation"][place]
        if not num:
            return True
        promised = self.promised[place] + request.num_prompt + request.num_output
        most = ROOM_BATCHES * min(servers.max_batch_size, servers.max_num_tokens)
        return num < most and promised <= self.design.kv_overcommit * servers.num_kv_tokens

    def pick(self, role: str, eligible: list[bool]) -> int | None:
        counts, turn = self.counts[role], self.turns[role]
        order = [(turn + i) % len(counts) for i in range(len(counts))]
        order = [place for place in order if eligible[place]]
        if not order:
            return None
        servers = self.design.context if role == "context" else self.design.generation
        assert servers
        place = min(order, key=lambda p: counts[p]) if servers.is_balanced else order[0]
        self.turns[role] = (place + 1) % len(counts)
        counts[place] += 1
        return place

    # --- servers ------------------------------------------------------------------------------------------------------

    def add(self, server: Server, request: Request, now: float) -> None:
        server.waiting.append(request)
        self.wake(server, now)

    def wake(self, server: Server, now: float) -> None:
        if not server.is_stepping:
            self.step(server, now)

    def step(self, server: Server, now: float) -> None:
        servers = server.servers
        server.generating += server.joining
        server.joining.clear()
        while server.generating and server.num_taken > servers.num_kv_tokens:
            self.preempt(server)
        self.admit(server, now)
        shares, budget = [], servers.max_num_tokens - len(server.generating)
        for request in server.context:
            num = min(request.num_known - request.num_computed, budget)
            budget -= num
            if num:
                shares.append((request, num))
        generating = list(server.generating)
        if not shares and not generating:
            return
        server.is_stepping = True
        pairs = sum(num_pairs(request.num_computed, num) for request, num in shares)
        num_kv = sum(request.num_known for request in generating)
        took = servers.cost.step_s(len(generating), num_kv, sum(num for _, num in shares), pairs)
        self.at(now + took, lambda t: self.stepped(server, generating, shares, t))

    def preempt(self, server: Server) -> None:
        request = max([*server.context, *server.generating], key=lambda r: r.number)
        (server.context if request in server.context else server.generating).remove(request)
        request.num_computed = 0
        server.waiting.insert(0, request)
        server.num_preemptions += 1

    def admit(self, server: Server, now: float) -> None:
        servers = server.servers
        most = min(servers.max_batch_size, servers.max_num_tokens)
        while server.waiting and server.num_running + len(server.fetching) < most:
            request = server.waiting[0]
            spare = 0 if servers.reserves else server.num_running * servers.tokens_per_block
            if server.num_taken + server.taken(request) + spare > servers.num_kv_tokens:
                return
            server.waiting.pop(0)
            if request.is_handed:
                request.is_handed = False
                server.fetching.append(request)
                server.fetches_until = max(server.fetches_until, now) + self.design.fetch_token_s * request.num_prompt
                self.at(server.fetches_until, lambda t, r=request: self.fetched(server, r, t))  # type: ignore[misc]
            else:
                request.num_computed = 0
                server.context.append(request)

    def fetched(self, server: Server, request: Request, now: float) -> None:
        holder = self.context[request.places[0]]
        holder.held.remove(request)
        self.wake(holder, now)
        server.fetching.remove(request)
        server.joining.append(request)
        self.wake(server, now)

    def stepped(self, server: Server, generating: list[Request], shares: list[tuple[Request, int]], now: float) -> None:
        server.is_stepping = False
        for request in sorted(generating, key=lambda r: r.number):
            self.token(server, request, now)
        for request, num in shares:
            request.num_computed += num
            if request.num_computed < request.num_known:
                continue
            server.context.remove(request)
            server.generating.append(request)
            if server.hands_over and request.num_output > 1:
                server.generating.remove(request)
                server.held.append(request)
                request.num_known += 1
                request.tokens.append(now)
                request.is_handed = True
                self.counts["context"][request.places[0]] -= 1
                to = self.generation[request.places[1]]
                self.at(now + self.design.handover_s, lambda t, s=to, r=request: self.add(s, r, t))  # type: ignore[misc]
            else:
                self.token(server, request, now)
        self.step(server, now)

    def token(self, server: Server, request: Request, now: float) -> None:
        request.num_known += 1
        request.tokens.append(now)
        if not request.is_over:
            return
        server.generating.remove(request)
        if server.hands_over:
            self.counts["context"][request.places[0]] -= 1
        place = request.places[1]
        self.counts["generation"][place] -= 1
        self.promised[place] -= request.num_prompt + request.num_output
        if self.load.concurrency is not None:
            self.ask_next(now)
        self.serve_line(now)
