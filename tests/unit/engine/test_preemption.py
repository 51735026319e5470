"""When blocks run out, whoever came last makes room: no answer changes, nobody waits for ever."""

from __future__ import annotations

from fakes.runner import tokens_alone
from helpers.engine import HandDriven, make_request

from trtdisagg.engine.request import Request


def run(engine: HandDriven, *requests: Request) -> None:
    engine.add(*requests)
    engine.run()
    for request in requests:
        assert engine.tokens(request.id) == tokens_alone(request, request.sampling.max_tokens), request
    engine.assert_empty()


def order_of_endings(engine: HandDriven) -> list[int]:
    return [request_id for request_id, outputs in engine.outputs.items() if outputs[-1].finish_reason]


def test_more_is_begun_than_fits_and_everybody_gets_what_they_get_alone() -> None:
    engine = HandDriven(num_blocks=8, tokens_per_block=4, max_batch_size=6)
    run(engine, *(make_request(i, num_prompt=4, max_tokens=20) for i in range(6)))
    assert engine.stats.num_preemptions_total > 0


def test_sampled_answers_go_on_where_they_were() -> None:
    engine = HandDriven(num_blocks=7, tokens_per_block=4, enable_block_reuse=False)
    sampling = {"temperature": 1.0, "seed": 3, "frequency_penalty": 0.5}
    run(engine, *(make_request(i, num_prompt=5, max_tokens=18, sampling=sampling) for i in range(4)))
    assert engine.stats.num_preemptions_total > 0


def test_nobody_is_preempted_where_all_blocks_were_kept_free() -> None:
    engine = HandDriven(num_blocks=8, tokens_per_block=4, scheduler_policy="guaranteed_no_evict")
    run(engine, *(make_request(i, num_prompt=4, max_tokens=20) for i in range(6)))
    assert engine.stats.num_preemptions_total == 0


def test_who_came_first_is_never_preempted() -> None:
    engine = HandDriven(num_blocks=7, tokens_per_block=4, max_batch_size=4)
    engine.add(*(make_request(i, num_prompt=4, max_tokens=20) for i in range(4)))
    for num_steps in range(1, 21):
        engine.step()
        assert len(engine.tokens(0)) == num_steps
    assert engine.last(0).finish_reason == "length"
    assert engine.stats.num_preemptions_total > 0


def test_a_higher_priority_is_admitted_sooner_and_preempted_later() -> None:
    engine = HandDriven(max_batch_size=1)
    engine.add(make_request(1), *(make_request(i, priority=i) for i in (2, 4, 3)))
    engine.add(make_request(5, priority=4))
    ends = []
    for _ in range(40):
        engine.step()
        ends += [i for i, outs in engine.outputs.items() if outs[-1].finish_reason and i not in ends]
    assert ends == [4, 5, 3, 2, 1]

    engine = HandDriven(num_blocks=7, tokens_per_block=4, max_batch_size=4)
    engine.add(*(make_request(i, num_prompt=4, max_tokens=20, priority=i) for i in range(4)))
    for num_steps in range(1, 21):
        engine.step()
        assert len(engine.tokens(3)) == num_steps


def test_within_a_priority_who_came_first_is_first() -> None:
    engine = HandDriven(max_batch_size=1)
    engine.add(make_request(9, max_tokens=2), *(make_request(i, max_tokens=1, priority=1) for i in (5, 1, 3)))
    engine.run()
    assert order_of_endings(engine)[:3] == [5, 1, 3]


def test_a_request_that_fits_the_pool_alone_ends_beside_others() -> None:
    engine = HandDriven(num_blocks=6, tokens_per_block=4, max_batch_size=8)
    run(engine, *(make_request(i, num_prompt=10, max_tokens=15) for i in range(5)))


def test_a_preempted_request_is_cancelled_where_it_waits() -> None:
    engine = HandDriven(num_blocks=6, tokens_per_block=4, max_batch_size=4)
    engine.add(*(make_request(i, num_prompt=4, max_tokens=20) for i in range(3)))
    while not engine.stats.num_preemptions_total:
        engine.step()
    assert engine.stats.num_waiting
    for request_id in range(3):
        engine.cancel(request_id)
    engine.run()
    assert all(engine.last(i).finish_reason == "cancelled" for i in range(3))
    engine.assert_empty()


def test_blocks_that_are_held_are_waited_for() -> None:
    engine = HandDriven(num_blocks=5, tokens_per_block=4)
    engine.add(make_request(1, num_prompt=8, max_tokens=9, type="context_only"))
    engine.run()
    engine.add(make_request(2, num_prompt=5, max_tokens=12))
    engine.run()
    assert engine.stats.num_waiting == 1  # it had three blocks, and there was no fourth
    engine.handover.release(1)
    engine.run()
    assert engine.tokens(2) == tokens_alone(make_request(2, 5, 12), 12)
    engine.assert_empty()


def test_an_engine_without_chunks_computes_each_prompt_in_one_step() -> None:
    engine = HandDriven(max_num_tokens=12, max_batch_size=6, enable_chunked_prefill=False)
    sizes = (2, 3, 12, 7, 1, 11)
    requests = [make_request(i, num_prompt=n, max_tokens=8) for i, n in enumerate(sizes)]
    engine.add(*requests)
    begun = [0] * len(requests)
    while engine.step():
        for chunk in engine.runner.steps[-1].chunks:
            for i, request in enumerate(requests):
                begun[i] += chunk.start == 0 and chunk.tokens == request.prompt_token_ids
    assert begun == [1] * len(requests)
    assert all(engine.tokens(r.id) == tokens_alone(r, 8) for r in requests)
