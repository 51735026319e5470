"""The real engine on a tiny random Llama: the tokens transformers gives, aggregated and disaggregated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.handover import ticket
from helpers import tiny_llama

from trtdisagg.cache.holds import Offer
from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.executor import Executor
from trtdisagg.engine.request import Output, Request, SamplingParams
from trtdisagg.protocol.handover import Ticket

LONG_S = 60.0
MAX_TOKENS = 20
LENGTHS = [1, 2, 7, 8, 9, 24, 25, 70]
PROMPTS = [[(31 * n + 17 * i * i + 3 * i) % tiny_llama.VOCAB_SIZE for i in range(n)] for n in LENGTHS]

Model = tuple[Path, list[list[int]]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """Its directory, and what it says to each of `PROMPTS`."""
    directory = tmp_path_factory.mktemp("tiny-llama")
    reference = tiny_llama.build(directory)
    return directory, [tiny_llama.greedy(reference, prompt, MAX_TOKENS) for prompt in PROMPTS]


def greedy_request(request_id: int, prompt: list[int], **fields: object) -> Request:
    sampling = SamplingParams(max_tokens=MAX_TOKENS, temperature=0)
    return Request(id=request_id, prompt_token_ids=prompt, sampling=sampling, **fields)  # type: ignore[arg-type]


def collect(executor: Executor, num_requests: int) -> dict[int, list[Output]]:
    """Wait until so many requests have ended."""
    outputs: dict[int, list[Output]] = {}
    while sum(outs[-1].finish_reason is not None for outs in outputs.values()) < num_requests:
        new = executor.await_responses(timeout_s=LONG_S)
        assert new, "no output in time"
        for output in new:
            outputs.setdefault(output.request_id, []).append(output)
    return outputs


def tokens_of(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.new_token_ids]


def test_a_batch_of_prompts_gives_the_tokens_of_transformers(model: Model) -> None:
    directory, expected = model
    with tiny_llama.open_executor(directory) as (executor, _):
        for i, prompt in enumerate(PROMPTS):
            executor.enqueue_request(greedy_request(i, prompt))
        outputs = collect(executor, len(PROMPTS))
        assert [tokens_of(outputs[i]) for i in range(len(PROMPTS))] == expected
        assert executor.health() is None
    assert executor.stats().num_used_blocks == 0


class PoolOffer:
    """The context side of a handover between two pools of this process."""

    pool: KvPool

    def __init__(self) -> None:
        self.released: dict[int, Callable[[], None]] = {}

    def follow(self, *_: object) -> None:
        """Nothing is announced."""

    def hold(self, offer: Offer) -> Ticket:
        self.released[offer.request_id] = offer.on_released
        return ticket(offer.request_id, offer.num_tokens, list(offer.blocks))


class PoolFetch:
    """The generation side."""

    pool: KvPool

    def __init__(self, offer: PoolOffer, error: str | None) -> None:
        self.offer = offer
        self.error = error
        self.claims: dict[int, Ticket] = {}

    def follow(self, *_: object) -> None:
        """Nothing is announced."""

    def claim(self, request_id: int, ticket: Ticket) -> None:
        self.claims[request_id] = ticket

    def fetch(self, request_id: int, blocks: list[int], on_fetched: Callable[[str | None], None], dp_rank: int) -> None:
        claim = self.claims.pop(request_id)
        if self.error is None:
            for mine, theirs in zip(blocks, claim.blocks, strict=True):
                if mine >= 0:
                    self.pool.tensor[mine] = self.offer.pool.tensor[theirs]
        self.offer.released.pop(claim.request_id)()
        on_fetched(self.error)

    def forget(self, request_id: int) -> None:
        raise AssertionError("nobody was cancelled")


@pytest.mark.parametrize("error", [None, "the lease ended"])
def test_two_engines_give_what_one_gives(model: Model, error: str | None) -> None:
    directory, expected = model
    offer = PoolOffer()
    with tiny_llama.open_executor(directory, handover=offer) as (context, offer.pool):
        for i, prompt in enumerate(PROMPTS):
            context.enqueue_request(greedy_request(i, prompt, type="context_only"))
        firsts = collect(context, len(PROMPTS))
        fetch = PoolFetch(offer, error)
        with tiny_llama.open_executor(directory, num_blocks=48, handover=fetch) as (generation, fetch.pool):
            for i, prompt in enumerate(PROMPTS):
                [first] = firsts[i]
                assert first.finish_reason == "not_finished"
                request = greedy_request(
                    100 + i,
                    prompt,
                    type="generation_only",
                    output_token_ids=first.new_token_ids,
                    ticket=first.ticket,
                )
                generation.enqueue_request(request)
            outputs = collect(generation, len(PROMPTS))
    for i, tokens in enumerate(expected):
        assert tokens_of(firsts[i]) + tokens_of(outputs[100 + i]) == tokens
    num_computed = generation.stats().num_prompt_tokens_total
    assert num_computed == (0 if error is None else sum(LENGTHS))
    assert context.stats().num_used_blocks == generation.stats().num_used_blocks == 0


# --- blocks that are found, copied, shared and taken away -------------------------------------------------------------


def test_prompts_that_are_found_give_the_same_tokens(model: Model) -> None:
    directory, expected = model
    with tiny_llama.open_executor(directory) as (executor, _):
        for num_cached in ([0] * len(LENGTHS), [n - 1 for n in LENGTHS]):
            for i, prompt in enumerate(PROMPTS):
                executor.enqueue_request(greedy_request(i, prompt))
                outputs = collect(executor, 1)[i]
                assert tokens_of(outputs) == expected[i]
                assert outputs[0].num_cached_tokens == num_cached[i]


def test_choices_share_a_prompt_and_each_is_what_it_is_alone(model: Model) -> None:
    directory, expected = model
    with tiny_llama.open_executor(directory) as (executor, _):
        for i in (3, 4, 7):
            executor.enqueue_request(greedy_request(i, PROMPTS[i], num_choices=2))
        outputs = collect_choices(executor, 6)
        for i in (3, 4, 7):
            for choice in range(2):
                assert tokens_of([o for o in outputs if (o.request_id, o.choice) == (i, choice)]) == expected[i]


def collect_choices(executor: Executor, num: int) -> list[Output]:
    """Wait until so many choices have ended."""
    outputs: list[Output] = []
    while sum(o.finish_reason is not None for o in outputs) < num:
        new = executor.await_responses(timeout_s=LONG_S)
        assert new, "no output in time"
        outputs += new
    return outputs


def test_who_makes_room_for_others_goes_on_with_the_same_tokens(model: Model) -> None:
    directory, expected = model
    with tiny_llama.open_executor(directory, num_blocks=12) as (executor, _):
        for i, prompt in enumerate(PROMPTS):
            executor.enqueue_request(greedy_request(i, prompt))
        outputs = collect(executor, len(PROMPTS))
        assert executor.stats().num_preemptions_total > 0
        assert [tokens_of(outputs[i]) for i in range(len(PROMPTS))] == expected
