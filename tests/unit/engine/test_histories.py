"""Any order of requests, cancels, transfers that succeed or fail, releases and faults: tokens right, nothing left."""

from __future__ import annotations

from fakes.runner import tokens_alone
from helpers.engine import HandDriven, make_request
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from trtdisagg.engine.request import Request

MAX_WAIT_STEPS = 300


class EngineHistories(RuleBasedStateMachine):
    @initialize(
        max_num_tokens=st.integers(1, 12),
        max_batch_size=st.integers(1, 5),
        tokens_per_block=st.sampled_from([1, 3, 4]),
    )
    def start(self, max_num_tokens: int, max_batch_size: int, tokens_per_block: int) -> None:
        self.engine = HandDriven(
            max_num_tokens=max_num_tokens,
            max_batch_size=max_batch_size,
            tokens_per_block=tokens_per_block,
            num_blocks=20,
        )
        self.source = HandDriven(tokens_per_block=tokens_per_block, num_blocks=10_000, max_num_tokens=100)
        self.requests: dict[int, Request] = {}
        self.cancelled: set[int] = set()
        self.failed: set[int] = set()
        self.num_failed_in_a_row = 0

    def enter(self, request: Request) -> None:
        self.engine.limits.check(request)
        self.requests[request.id] = request
        self.engine.add(request)

    @rule(
        num_prompt=st.integers(1, 12),
        max_tokens=st.integers(1, 8),
        context_only=st.booleans(),
        seed=st.one_of(st.none(), st.integers(0, 3)),
    )
    def add(self, num_prompt: int, max_tokens: int, context_only: bool, seed: int | None) -> None:
        sampling = {} if seed is None else {"temperature": 1.0, "seed": seed}
        kind = "context_only" if context_only else "context_and_generation"
        self.enter(make_request(len(self.requests), num_prompt, max_tokens, type=kind, sampling=sampling))

    @rule(num_prompt=st.integers(1, 12), max_tokens=st.integers(2, 8), has_ticket=st.booleans())
    def add_generation(self, num_prompt: int, max_tokens: int, has_ticket: bool) -> None:
        """The context leg runs on an engine of its own, whose KV the ticket names."""
        request_id = len(self.requests)
        self.source.add(make_request(request_id, num_prompt, max_tokens, type="context_only"))
        self.source.run()
        first = self.source.last(request_id)
        self.enter(
            make_request(
                request_id,
                num_prompt,
                max_tokens,
                type="generation_only",
                output_token_ids=first.new_token_ids,
                ticket=first.ticket if has_ticket else None,
            )
        )

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        self.cancelled.add(request_id)
        self.engine.cancel(request_id)

    @precondition(lambda self: self.engine.handover.fetches)
    @rule(data=st.data(), succeeds=st.booleans())
    def end_fetch(self, data: st.DataObject, succeeds: bool) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.engine.handover.fetches)))
        if succeeds:
            self.move(request_id)
        self.engine.handover.end_fetch(request_id, None if succeeds else "gone")

    def move(self, request_id: int) -> None:
        fetch = self.engine.handover.fetches[request_id]
        self.engine.runner.copy_kv(fetch.blocks, self.source.runner, fetch.ticket.blocks)

    @precondition(lambda self: self.engine.handover.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.engine.handover.release(data.draw(st.sampled_from(sorted(self.engine.handover.held))))

    @rule(num_steps=st.integers(1, 6))
    def go_on(self, num_steps: int) -> None:
        if any(self.engine.step() is not None for _ in range(num_steps)):
            self.num_failed_in_a_row = 0

    @precondition(lambda self: self.num_failed_in_a_row < 2)  # at three the engine is broken
    @rule()
    def fail_a_step(self) -> None:
        self.engine.runner.failure = RuntimeError("a step fails")
        self.num_failed_in_a_row += 1
        self.engine.step()
        self.engine.runner.failure = None
        self.failed |= {i for i in self.requests if self.has_failed(i)}

    def has_failed(self, request_id: int) -> bool:
        return any(o.finish_reason == "error" for o in self.engine.outputs[request_id])

    @invariant()
    def the_budget_holds(self) -> None:
        for step in self.engine.runner.steps:
            assert 0 < step.num_tokens <= self.engine.limits.max_num_tokens
            assert len(step.chunks) <= self.engine.limits.max_batch_size
        self.engine.runner.steps.clear()

    @invariant()
    def tokens_are_those_of_the_request_alone(self) -> None:
        for request_id, request in self.requests.items():
            tokens = self.engine.tokens(request_id)
            assert tokens == tokens_alone(request, request.sampling.max_tokens)[: len(tokens)]

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(MAX_WAIT_STEPS):
            self.engine.run()
            for request_id in list(self.engine.handover.fetches):
                self.move(request_id)
                self.engine.handover.end_fetch(request_id)
            for request_id in list(self.engine.handover.held):
                self.engine.handover.release(request_id)
            if self.engine.core.inbox.empty():
                break
        for request_id, request in self.requests.items():
            self.check_ending(request_id, request)
        self.engine.assert_empty()

    def check_ending(self, request_id: int, request: Request) -> None:
        reason, tokens = self.engine.last(request_id).finish_reason, self.engine.tokens(request_id)
        if reason == "cancelled":
            assert request_id in self.cancelled
        elif reason == "error":
            assert request_id in self.failed
        elif reason == "not_finished":
            assert request.type == "context_only"
            assert len(tokens) == 1
        else:
            assert reason == "length"
            assert len(tokens) == request.sampling.max_tokens - len(request.output_token_ids)


# Not shrunk: that takes minutes, and a failure prints its history as it is.
EngineHistories.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, phases=(Phase.explicit, Phase.generate)
)
TestEngineHistories = EngineHistories.TestCase
