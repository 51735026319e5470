"""An engine driven by hand among random requests with random features, and what each of them gets alone.

Prompts are beginnings of a few texts, so that most of them share something.
"""

from __future__ import annotations

from itertools import count
from random import Random
from typing import Any

from fakes.guides import EVERY_THIRD, FakeGuide
from fakes.runner import VOCAB_SIZE, tokens_alone
from helpers.engine import EOS, HandDriven, make_request
from helpers.pipeline import READER, Pipeline

from trtdisagg.engine.request import Request

MAX_PROMPT, MAX_OUTPUT = 14, 8
_TEXTS = [[(7 * t + i * (t + 1)) % (VOCAB_SIZE - 1) + 1 for i in range(MAX_PROMPT)] for t in range(3)]
MAX_ROUNDS = 300


class EngineWorld:
    """
    :param random: of the engine's limits.
    """

    def __init__(self, random: Random) -> None:
        tokens_per_block = random.choice([1, 3, 4])
        self.engine = HandDriven(
            ahead=random.random() < 0.5,
            dp_size=random.choice([1, 1, 2, 3, 4]),
            overlap_transfers=random.random() < 0.8,
            max_num_tokens=random.randint(4, 12),
            max_batch_size=random.randint(3, 6),
            tokens_per_block=tokens_per_block,
            # Just enough for one request, or a lot.
            num_blocks=-(-(MAX_PROMPT + MAX_OUTPUT) // tokens_per_block) + random.choice([0, 2, 20]),
            scheduler_policy=random.choice(["max_utilization", "max_utilization", "guaranteed_no_evict"]),
            enable_chunked_prefill=random.random() < 0.8,
            enable_block_reuse=random.random() < 0.9,
            enable_partial_reuse=random.random() < 0.8,
        )
        self.source = HandDriven(
            tokens_per_block=tokens_per_block,
            num_blocks=10_000,
            max_num_tokens=100,
            dp_size=random.choice([1, 2]),
        )
        self.pipeline = Pipeline(self._slow_source(random), self.engine)
        self._ids = count()
        self.coming: dict[int, Request] = {}
        """Context legs on the pipeline's source."""
        self.requests: dict[int, Request] = {}
        self.expected: dict[tuple[int, int], list[int]] = {}
        """By request and choice."""
        self.cancelled: set[tuple[int, int]] = set()
        self.failed: set[int] = set()
        self._num_failed_in_a_row = 0

    def _slow_source(self, random: Random) -> HandDriven:
        """Computes prompts in chunks, and has hardly any room."""
        tokens_per_block = self.engine.limits.tokens_per_block
        return HandDriven(
            tokens_per_block=tokens_per_block,
            num_blocks=-(-(MAX_PROMPT + MAX_OUTPUT) // tokens_per_block) + random.choice([0, 5, 20]),
            max_num_tokens=random.randint(3, 5),
            max_batch_size=3,
            pipelined_transfers=True,
            enable_block_reuse=random.random() < 0.5,
        )

    # --- what may happen ----------------------------------------------------------------------------------------------

    def add(self, random: Random) -> None:
        """A request that one server serves."""
        self._enter(_random_request(random, next(self._ids), self._max_prompt))

    def add_context(self, random: Random) -> None:
        self._enter(_random_request(random, next(self._ids), self._max_prompt, type="context_only"))

    def add_generation(self, random: Random) -> None:
        """The context leg runs on an engine of its own, whose KV the ticket names."""
        request_id = next(self._ids)
        context = _random_request(random, request_id, self._max_prompt, type="context_only")
        self.source.add(context)
        self.source.run()
        first = self.source.last(request_id)
        if first.ticket is None:  # it has ended there
            self.source.outputs.clear()
            return
        fields = {"output_token_ids": first.new_token_ids, "ticket": random.choice([first.ticket, None])}
        self._enter(make_like(context, type="generation_only", **fields))

    def begin_context(self, random: Random) -> None:
        """A context leg that tells of its pieces, among others that may take its blocks."""
        source, request_id = self.pipeline.context, next(self._ids)
        request = _random_request(random, request_id, self._max_prompt, type="context_only", reader=READER)
        self.coming[request_id] = request
        source.add(request)
        if random.random() < 0.3:
            source.add(make_request(next(self._ids), num_prompt=random.randint(1, 4), max_tokens=10))

    def go_on_with_context(self, random: Random) -> None:
        """The source computes; legs that it has finished become requests, or are given up."""
        source = self.pipeline.context
        source.step()
        for request_id, request in list(self.coming.items()):
            ended = [o for o in source.outputs[request_id] if o.finish_reason]
            if ended:
                del self.coming[request_id]
            if ended and ended[0].ticket is not None:
                leg = {"output_token_ids": ended[0].new_token_ids, "ticket": ended[0].ticket}
                self._enter(make_like(request, type="generation_only", timeout_s=None, **leg))
        if held := sorted(source.handover.held):
            source.handover.release(random.choice(held))

    def cancel_context(self, random: Random) -> None:
        if self.coming:
            request_id = random.choice(sorted(self.coming))
            del self.coming[request_id]
            self.pipeline.context.cancel(request_id)

    def read_piece(self, random: Random) -> None:
        self.pipeline.tell()
        self.engine.core.receive(timeout_s=0)
        if pieces := self.pipeline.pieces:
            self.pipeline.read(random.choice(pieces))

    def check_piece(self, random: Random) -> None:
        if pieces := self.pipeline.pieces:
            self.pipeline.check(random.choice(pieces))

    def cancel(self, random: Random) -> None:
        if self.requests:
            request_id = random.choice(sorted(self.requests))
            choice = random.choice([None, random.randrange(self.requests[request_id].num_choices)])
            choices = range(self.requests[request_id].num_choices) if choice is None else [choice]
            self.cancelled |= {(request_id, c) for c in choices}
            self.engine.cancel(request_id, choice)

    def end_fetch(self, random: Random) -> None:
        if fetches := sorted(self.engine.handover.fetches):
            request_id = random.choice(fetches)
            self._end_fetch(request_id, succeeds=random.random() < 0.7)

    def release(self, random: Random) -> None:
        if held := sorted(self.engine.handover.held):
            self.engine.handover.release(random.choice(held))

    def go_on(self, random: Random) -> None:
        for _ in range(random.randint(1, 6)):
            if self.engine.step() is not None:
                self._num_failed_in_a_row = 0

    def wait(self, random: Random) -> None:
        self.engine.now_s += random.choice([0.1, 1.0])

    def fail_a_step(self, random: Random) -> None:
        if self._num_failed_in_a_row < 2:  # at three the engine is broken
            self._num_failed_in_a_row += 1
            self.engine.runner.failure = RuntimeError("a step fails")
            self.engine.step()
            self.engine.runner.failure = None
            self.failed |= {i for i in self.requests if self._has_failed(i)}

    def _has_failed(self, request_id: int) -> bool:
        return any(o.finish_reason == "error" for o in self.engine.outputs[request_id])

    # --- what must be so ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """The budget of each step was kept, and all tokens so far are those of each request alone."""
        limits = self.engine.limits
        for step in self.engine.runner.steps:
            assert step.chunks
            for dp_rank in range(limits.dp_size):
                chunks = [c for c in step.chunks if c.dp_rank == dp_rank]
                assert len(chunks) <= limits.max_batch_size
                assert sum(len(c.tokens) for c in chunks) <= limits.max_num_tokens
        self.engine.runner.steps.clear()
        for (request_id, choice), expected in self.expected.items():
            tokens = self.engine.tokens(request_id, choice)
            assert tokens == expected[: len(tokens)], f"request {request_id}, choice {choice}"

    def finish(self) -> None:
        """Everything ends as it should, and nothing is left."""
        for _ in range(MAX_ROUNDS):
            self.engine.run()
            for key in self.pipeline.pieces:
                self.pipeline.check(key)
            for request_id in list(self.engine.handover.fetches):
                self._end_fetch(request_id, succeeds=True)
            for request_id in list(self.engine.handover.held):
                self.engine.handover.release(request_id)
            if self.engine.core.inbox.empty():
                break
        self.check()
        for request_id, choice in self.expected:
            self._check_ending(self.requests[request_id], choice)
        self._finish_source()
        self.engine.assert_empty()

    def _finish_source(self) -> None:
        source = self.pipeline.context
        for _ in range(MAX_ROUNDS):
            source.run()
            for request_id in list(source.handover.held):
                source.handover.release(request_id)
            if source.core.inbox.empty():
                break
        source.assert_empty()
        assert not source.handover.told
        self.pipeline.go_on()
        assert not self.engine.core._lifecycle.prefetches._prompts

    def _check_ending(self, request: Request, choice: int) -> None:
        last, tokens = self.engine.last(request.id, choice), self.engine.tokens(request.id, choice)
        expected = self.expected[request.id, choice]
        match last.finish_reason:
            case "cancelled":
                assert (request.id, choice) in self.cancelled
            case "timeout":
                assert request.timeout_s is not None
            case "error":
                assert request.id in self.failed, last.error
            case "not_finished":
                assert request.type == "context_only"
                assert len(tokens) == 1
            case "length":
                assert tokens == expected
                assert len(tokens) + len(request.output_token_ids) == request.sampling.max_tokens
            case "stop":
                assert tokens == expected
            case reason:
                raise AssertionError(f"request {request.id} ended with {reason}")
        begun = [o for o in self.engine.outputs[request.id] if o.new_token_ids and o.choice == choice]
        assert all(0 <= o.num_cached_tokens < len(request.prompt_token_ids) + 1 for o in begun)
        assert not any(o.num_cached_tokens for o in begun[1:])

    @property
    def _max_prompt(self) -> int:
        limits = self.engine.limits
        return MAX_PROMPT if limits.enable_chunked_prefill else min(MAX_PROMPT, limits.max_num_tokens - 1)

    def _enter(self, request: Request) -> None:
        limits = self.engine.limits
        while request.num_choices > 1 and limits.scheduler_policy == "guaranteed_no_evict":
            request = make_like(request, num_choices=request.num_choices - 1)
        limits.check(request)
        self.requests[request.id] = request
        stop_ids = request.sampling.stop_token_ids | (frozenset() if request.sampling.ignore_eos else {EOS})
        for choice in range(request.num_choices):
            guide = FakeGuide(len(request.output_token_ids)) if request.guide else None
            left = request.sampling.max_tokens
            self.expected[request.id, choice] = tokens_alone(
                request, left, stop_ids=frozenset(stop_ids), choice=choice, guide=guide
            )
        guides = [FakeGuide(len(request.output_token_ids)) for _ in range(request.num_choices)] if request.guide else []
        self.engine.add_guided(request, *guides)

    def _end_fetch(self, request_id: int, *, succeeds: bool) -> None:
        fetch = self.engine.handover.fetches[request_id]
        slow = self.pipeline.context
        source = slow if request_id in slow.outputs else self.source
        succeeds = succeeds and request_id in source.handover.held
        if succeeds:
            self.engine.runner.copy_kv(fetch, source.runner)
        self.engine.handover.end_fetch(request_id, None if succeeds else "gone")


def make_like(request: Request, **changes: Any) -> Request:
    return Request(**{name: getattr(request, name) for name in request.__struct_fields__} | changes)


def _random_request(random: Random, request_id: int, max_prompt: int, **fields: Any) -> Request:
    """Each feature is rare enough that most requests have none, and many have two."""

    def sometimes(value: Any, otherwise: Any, share: float = 0.25) -> Any:
        return value if random.random() < share else otherwise

    prompt = random.choice(_TEXTS)[: random.randint(1, max_prompt)]
    if random.random() < 0.3:
        prompt = [*prompt[:-1], random.randrange(1, VOCAB_SIZE)]
    is_whole = fields.get("type") is None
    sampling = {
        "temperature": sometimes(1.0, 0.0, 0.6),
        "seed": random.randrange(4),
        "ignore_eos": random.random() < 0.5,
        "stop_token_ids": sometimes(frozenset(random.sample(range(VOCAB_SIZE), 3)), frozenset()),
        "min_tokens": sometimes(random.randint(1, MAX_OUTPUT), 0),
        "frequency_penalty": sometimes(0.7, 0.0),
        "num_prompt_logprobs": sometimes(1, None, 0.1),
    }
    return make_request(
        request_id,
        max_tokens=random.randint(1, MAX_OUTPUT),
        prompt=prompt,
        sampling=sampling,
        num_choices=sometimes(random.randint(2, 3), 1) if is_whole else 1,
        priority=sometimes(random.randint(-1, 1), 0),
        timeout_s=sometimes(random.choice([0.5, 3.0]), None, 0.1),
        cache_salt=sometimes("salt", None, 0.1),
        guide=sometimes(EVERY_THIRD, None, 0.15) if is_whole else None,
        **fields,
    )
