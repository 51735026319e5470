"""An engine core driven by hand, step by step, on the test's own thread."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from fakes.guides import FakeGuide
from fakes.handover import FakeHandover
from fakes.runner import VOCAB_SIZE, FakeRunner

from trtdisagg.engine.core import EngineCore
from trtdisagg.engine.limits import Limits
from trtdisagg.engine.messages import Add, Cancel, Listen
from trtdisagg.engine.request import Output, Request, SamplingParams
from trtdisagg.engine.step import Step
from trtdisagg.protocol.stats import Stats
from trtdisagg.text.block_hash import HASH_BYTES

EOS = 0


class BlockFollower:
    """Keeps count of what can be found in an engine's blocks, by what it is told."""

    def __init__(self) -> None:
        self.hashes: set[bytes] = set()
        self.num_told = 0

    def take(self, stored: bytes, removed: bytes) -> None:
        self.num_told += 1
        gone, there = _split(removed), _split(stored)
        assert not gone & there
        self.hashes = (self.hashes - gone) | there


def _split(hashes: bytes) -> set[bytes]:
    split = [hashes[i : i + HASH_BYTES] for i in range(0, len(hashes), HASH_BYTES)]
    assert len(split) == len(set(split)), "a hash was told twice"
    return {*split}


def make_limits(**changes: Any) -> Limits:
    sizes: dict[str, Any] = {
        "max_batch_size": 8,
        "max_num_tokens": 16,
        "max_seq_len": 64,
        "num_blocks": 32,
        "tokens_per_block": 4,
    }
    return Limits(**(sizes | {"vocab_size": VOCAB_SIZE} | changes))


def make_request(request_id: int, num_prompt: int = 5, max_tokens: int = 6, **fields: Any) -> Request:
    """A request with a prompt of its own; greedy and without an end of sequence unless `sampling` says otherwise."""
    sampling = {"max_tokens": max_tokens, "temperature": 0, "ignore_eos": True} | fields.pop("sampling", {})
    prompt = fields.pop("prompt", None) or [(request_id * 7 + i) % (VOCAB_SIZE - 1) + 1 for i in range(num_prompt)]
    return Request(id=request_id, prompt_token_ids=prompt, sampling=SamplingParams(**sampling), **fields)


class HandDriven:
    """A core with a fake runner and a fake handover, and what came out of it."""

    def __init__(self, *, ahead: bool = False, **limits: Any) -> None:
        self.limits = make_limits(**limits)
        self.runner = FakeRunner(self.limits.tokens_per_block)
        self.handover = FakeHandover(self._late_blocks)
        self.outputs: dict[int, list[Output]] = defaultdict(list)
        self.now_s = 1000.0
        self.core = EngineCore(
            runner=self.runner,
            limits=self.limits,
            eos_token_ids=frozenset({EOS}),
            handover=self.handover,
            deliver=self._deliver,
            ahead=self.runner if ahead else None,
            clock=lambda: self.now_s,
        )
        self.follower = BlockFollower()
        """From the beginning."""
        self.listen(self.follower)

    def listen(self, follower: BlockFollower, *, is_over: bool = False) -> None:
        self.core.inbox.put(Listen(follower.take, is_over))

    def assert_followed(self, *followers: BlockFollower) -> None:
        """They know what somebody knows who comes now."""
        fresh = BlockFollower()
        self.listen(fresh)
        self.step()
        self.listen(fresh, is_over=True)
        for follower in (self.follower, *followers):
            assert follower.hashes == fresh.hashes

    def _late_blocks(self) -> set[int]:
        """Those that what was launched may still write to; what was read since has been computed."""
        is_late = self.core.ahead is not None and self.core.ahead.is_late
        return self.runner.unread_blocks | (self.runner.late_blocks() if is_late else set())

    def add(self, *requests: Request) -> None:
        for request in requests:
            guides = [FakeGuide() for _ in range(request.num_choices)] if request.guide else []
            self.add_guided(request, *guides)

    def add_guided(self, request: Request, *guides: FakeGuide) -> None:
        self.core.inbox.put(Add(request, list(guides), self.now_s))

    def cancel(self, request_id: int, choice: int | None = None) -> None:
        self.core.inbox.put(Cancel(request_id, choice))

    def step(self, num_steps: int = 1) -> Step | None:
        """Do this many rounds; the last round's step, if it computed anything."""
        num_before = len(self.runner.steps)
        for _ in range(num_steps):
            num_before = len(self.runner.steps)
            self.core.receive(timeout_s=0)
            self.core.step()
            self.core.check_integrity()
        return self.runner.steps[-1] if len(self.runner.steps) > num_before else None

    def run(self, max_steps: int = 1000) -> None:
        """Go on until there is nothing to compute."""
        for _ in range(max_steps):
            if self.step() is None and self.core.inbox.empty() and not self.core.is_working:
                return
        raise AssertionError(f"not idle after {max_steps} steps")

    def tokens(self, request_id: int, choice: int = 0) -> list[int]:
        return [t for o in self.outputs[request_id] if o.choice == choice for t in o.new_token_ids]

    def first(self, request_id: int, choice: int = 0) -> Output:
        return next(o for o in self.outputs[request_id] if o.choice == choice)

    def last(self, request_id: int, choice: int = 0) -> Output:
        """The last output; it must be the only one that ends this choice."""
        *others, last = [o for o in self.outputs[request_id] if o.choice == choice]
        assert all(o.finish_reason is None for o in others), others
        return last

    @property
    def stats(self) -> Stats:
        return self.core.stats

    def assert_empty(self) -> None:
        """Nothing is left: no request, no block, no claim."""
        self.assert_followed()
        self.core.check_integrity()
        assert (self.stats.num_running, self.stats.num_waiting, self.stats.num_used_blocks) == (0, 0, 0)
        assert not self.handover.open_claims

    def _deliver(self, outputs: list[Output]) -> None:
        for output in outputs:
            self.outputs[output.request_id].append(output)
