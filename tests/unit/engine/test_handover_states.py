"""Held blocks, fetched blocks, and requests that go away in the middle of it."""

from __future__ import annotations

from fakes.handover import ticket
from fakes.runner import tokens_alone
from helpers.engine import HandDriven, make_request

from trtdisagg.engine.request import Output, Request
from trtdisagg.errors import HandoverError


def context_leg(engine: HandDriven, request_id: int = 1, **fields: object) -> Output:
    engine.add(make_request(request_id, type="context_only", **fields))  # type: ignore[arg-type]
    engine.run()
    return engine.last(request_id)


def generation_request(request_id: int, context: Output, **fields: object) -> Request:
    return make_request(
        request_id,
        type="generation_only",
        output_token_ids=context.new_token_ids,
        ticket=context.ticket,
        **fields,  # type: ignore[arg-type]
    )


# --- the context server's half ----------------------------------------------------------------------------------------


def test_a_context_request_gives_its_first_token_and_a_ticket() -> None:
    engine = HandDriven(tokens_per_block=4)
    last = context_leg(engine, num_prompt=9)
    assert last.finish_reason == "not_finished"
    assert last.new_token_ids == tokens_alone(make_request(1, 9), 1)
    assert last.ticket is not None
    assert (last.ticket.request_id, last.ticket.num_tokens, len(last.ticket.blocks)) == (1, 9, 3)
    assert (engine.stats.num_held_blocks, engine.stats.num_used_blocks, engine.stats.num_running) == (3, 3, 0)


def test_held_blocks_are_free_when_released_and_a_second_release_does_nothing() -> None:
    engine = HandDriven()
    context_leg(engine)
    released = engine.handover.held[1].on_released
    engine.handover.release(1)
    engine.run()
    engine.assert_empty()
    assert engine.stats.num_held_blocks == 0
    released()
    engine.run()
    engine.assert_empty()


def test_cancel_withdraws_held_blocks_at_once() -> None:
    engine = HandDriven()
    context_leg(engine)
    engine.cancel(1)
    engine.cancel(1)
    engine.run()
    assert not engine.handover.held
    assert engine.last(1).finish_reason == "not_finished"
    engine.assert_empty()


def test_an_answer_that_ends_with_its_first_token_holds_nothing() -> None:
    engine = HandDriven()
    assert context_leg(engine, 1, max_tokens=1).finish_reason == "length"
    stop = tokens_alone(make_request(2), 1)[0]
    last = context_leg(engine, 2, sampling={"stop_token_ids": frozenset({stop})})
    assert (last.finish_reason, last.stop_token_id, last.ticket) == ("stop", stop, None)
    assert not engine.handover.held
    engine.assert_empty()


def test_a_handover_that_refuses_ends_the_request() -> None:
    engine = HandDriven()
    engine.handover.is_refusing = True
    last = context_leg(engine)
    assert last.finish_reason == "error"
    assert "not now" in (last.error or "")
    engine.assert_empty()


def test_the_id_of_held_blocks_is_not_taken_twice() -> None:
    engine = HandDriven()
    context_leg(engine)
    engine.outputs.clear()
    engine.add(make_request(1))
    engine.run()
    assert "still in use" in (engine.last(1).error or "")
    assert engine.stats.num_held_blocks == 2


# --- the generation server's half -------------------------------------------------------------------------------------


def both_halves(num_prompt: int = 9, **fields: object) -> tuple[HandDriven, HandDriven, Request]:
    context, generation = HandDriven(tokens_per_block=4), HandDriven(tokens_per_block=4)
    generation.add(make_request(5, max_tokens=3))  # its blocks are not those of the context server
    generation.step()
    last = context_leg(context, 1, num_prompt=num_prompt, **fields)
    request = generation_request(1, last, num_prompt=num_prompt, **fields)
    generation.add(request)
    generation.step()
    return context, generation, request


def move(context: HandDriven, generation: HandDriven) -> None:
    fetch = generation.handover.fetches[1]
    generation.runner.copy_kv(fetch, context.runner)
    generation.handover.end_fetch(1)
    context.handover.release(1)


def test_what_was_fetched_is_not_computed_again() -> None:
    context, generation, request = both_halves()
    assert len(generation.handover.fetches[1].blocks) == 3
    move(context, generation)
    num_before = generation.stats.num_prompt_tokens_total
    generation.run()
    assert generation.tokens(1) == tokens_alone(request, 6)
    assert generation.stats.num_prompt_tokens_total == num_before
    assert (generation.stats.num_transfers_total, generation.stats.num_transfer_failures_total) == (1, 0)
    context.run()
    context.assert_empty()
    generation.assert_empty()


def test_two_legs_give_what_one_gives_also_when_sampled() -> None:
    fields = {"max_tokens": 12, "sampling": {"temperature": 1.0, "seed": 11}}
    context, generation, _ = both_halves(**fields)
    move(context, generation)
    generation.run()
    alone = tokens_alone(make_request(1, 9, **fields), 12)  # type: ignore[arg-type]
    assert context.tokens(1) + generation.tokens(1) == alone


def test_others_go_on_while_one_fetches() -> None:
    _, generation, _ = both_halves()
    assert not generation.tokens(1)
    generation.run()
    assert generation.tokens(5) == tokens_alone(make_request(5, max_tokens=3), 3)
    assert generation.stats.num_running == 1


def test_a_fetch_that_fails_is_computed_here_and_nobody_sees_it() -> None:
    _, generation, request = both_halves()
    generation.handover.end_fetch(1, "the lease ended")
    num_before = generation.stats.num_prompt_tokens_total
    generation.run()
    assert generation.tokens(1) == tokens_alone(request, 6)
    assert generation.last(1).finish_reason == "length"
    assert generation.stats.num_prompt_tokens_total == num_before + 9
    assert generation.stats.num_transfer_failures_total == 1
    generation.assert_empty()


def test_without_a_ticket_all_is_computed_here() -> None:
    engine = HandDriven()
    request = make_request(1, type="generation_only", output_token_ids=tokens_alone(make_request(1), 1))
    engine.add(request)
    engine.run()
    assert engine.tokens(1) == tokens_alone(request, 6)


def test_what_is_here_already_is_not_fetched() -> None:
    for num_prompt, num_found in ((9, 9), (8, 8), (11, 9)):  # of the last, less than a block is missing
        engine = HandDriven(tokens_per_block=4)
        prompt = make_request(1, 11).prompt_token_ids
        engine.add(make_request(1, max_tokens=1, prompt=prompt[:9]))
        engine.run()
        request = make_request(
            2, prompt=prompt[:num_prompt], ticket=ticket(2, num_prompt, [0] * 3), output_token_ids=[3]
        )
        engine.add(request)
        engine.run()
        assert (engine.handover.forgotten, engine.handover.fetches) == ([2], {})
        assert engine.tokens(2) == tokens_alone(request, 6)
        assert engine.first(2).num_cached_tokens == num_found
        engine.assert_empty()


def test_only_blocks_that_are_missing_are_fetched() -> None:
    for error in (None, "gone"):
        context, generation = HandDriven(tokens_per_block=4), HandDriven(tokens_per_block=4)
        prompt = make_request(1, 11).prompt_token_ids
        generation.add(make_request(5, max_tokens=1, prompt=prompt[:6]))
        generation.run()
        request = generation_request(1, context_leg(context, 1, num_prompt=11), num_prompt=11)
        generation.add(request)
        generation.step()
        fetch = generation.handover.fetches[1]
        assert [block < 0 for block in fetch.blocks] == [True, False, False]
        if error is None:
            generation.runner.copy_kv(fetch, context.runner)
        num_before = generation.stats.num_prompt_tokens_total
        generation.handover.end_fetch(1, error)
        generation.run()
        assert generation.tokens(1) == tokens_alone(request, 6)
        assert generation.first(1).num_cached_tokens == 4
        assert generation.stats.num_prompt_tokens_total - num_before == (7 if error else 0)
        generation.assert_empty()


def test_a_claim_begins_with_the_request_and_its_fetch_when_there_is_room() -> None:
    engine = HandDriven(max_batch_size=1)
    engine.add(make_request(1, max_tokens=3), make_request(2, ticket=ticket(2, 5, [0, 1]), output_token_ids=[3]))
    engine.step()
    assert (list(engine.handover.open_claims), list(engine.handover.fetches)) == ([2], [])
    engine.step(3)
    assert (list(engine.handover.open_claims), list(engine.handover.fetches)) == ([], [2])
    engine.handover.end_fetch(2, "x")
    engine.run()
    engine.assert_empty()


def test_a_whole_prompt_without_a_token_computes_only_the_prompts_last() -> None:
    engine = HandDriven()
    prompt = make_request(1).prompt_token_ids
    engine.add(make_request(1, type="generation_only", ticket=ticket(1, 5, [0, 1])))
    engine.step()
    for position, token in enumerate(prompt[:4]):
        engine.runner.kv[0, engine.handover.fetches[1].blocks[position // 4], position % 4] = token
    engine.handover.end_fetch(1)
    engine.run()
    assert engine.tokens(1) == tokens_alone(make_request(1), 6)
    assert engine.stats.num_prompt_tokens_total == 1


def test_a_ticket_for_more_than_is_known_is_given_back_and_not_used() -> None:
    for num_tokens in (0, 7, 10**9):
        engine = HandDriven()
        engine.add(make_request(1, ticket=ticket(1, num_tokens, [0] * 9), output_token_ids=[3]))
        engine.run()
        assert engine.handover.forgotten == [1]
        assert len(engine.tokens(1)) == 5
        engine.assert_empty()


def test_cancel_while_it_waits_for_blocks_gives_the_claim_back() -> None:
    engine = HandDriven(max_batch_size=1)
    engine.add(make_request(1, max_tokens=9), make_request(2, ticket=ticket(2, 5, [0, 1]), output_token_ids=[3]))
    engine.step()
    engine.cancel(2)
    engine.run()
    assert engine.handover.forgotten == [2]
    assert engine.last(2).finish_reason == "cancelled"
    engine.assert_empty()


def test_cancel_in_a_fetch_answers_at_once_and_keeps_the_blocks_until_nothing_writes_to_them() -> None:
    for error in (None, "cut short"):
        _, generation, _ = both_halves()
        generation.cancel(1)
        generation.run()
        assert generation.last(1).finish_reason == "cancelled"
        assert generation.handover.forgotten == [1]
        assert generation.stats.num_used_blocks == 3
        generation.handover.end_fetch(1, error)
        generation.run()
        assert generation.tokens(1) == []
        assert generation.stats.num_transfer_failures_total == 0
        generation.assert_empty()


def test_blocks_in_quarantine_are_nobody_elses() -> None:
    engine = HandDriven(num_blocks=2, tokens_per_block=4)
    engine.add(make_request(1, max_tokens=4, ticket=ticket(1, 5, [0, 1]), output_token_ids=[3]))
    engine.step()
    engine.cancel(1)
    engine.add(make_request(2, num_prompt=2, max_tokens=3))
    engine.run()
    assert not engine.tokens(2)
    assert engine.stats.num_quarantined_blocks == 2
    engine.handover.end_fetch(1)
    engine.run()
    assert engine.stats.num_quarantined_blocks == 0
    assert engine.tokens(2) == tokens_alone(make_request(2, 2, 3), 3)
    engine.assert_empty()


def test_a_request_that_brings_all_its_tokens_gives_its_claim_back() -> None:
    engine = HandDriven()
    engine.add(make_request(1, max_tokens=1, ticket=ticket(1, 5, [0, 1]), output_token_ids=[3]))
    engine.run()
    assert (engine.last(1).finish_reason, engine.handover.forgotten) == ("length", [1])
    engine.assert_empty()


def test_a_broken_engine_gives_claims_back() -> None:
    engine = HandDriven(max_batch_size=1)
    engine.runner.failure = HandoverError("no")
    engine.add(*(make_request(i) for i in (1, 2, 3)), make_request(4, ticket=ticket(4, 5, [0, 1])))
    engine.step(3)
    assert engine.core.broken
    assert engine.handover.forgotten == [4]
    engine.assert_empty()


# --- steps that are behind --------------------------------------------------------------------------------------------


def test_a_fetch_writes_into_no_block_that_a_step_may_still_write() -> None:
    """The prompt is cut short behind a chunk without a token, and its blocks go to a fetch before the next step."""
    context, engine = HandDriven(), HandDriven(max_num_tokens=4, num_blocks=4)
    last = context_leg(context, request_id=2, num_prompt=13, max_tokens=2)
    engine.add(make_request(1, num_prompt=13, max_tokens=2))
    engine.step()
    engine.cancel(1)
    engine.add(generation_request(2, last, num_prompt=13, max_tokens=2))
    engine.step()
    assert set(engine.handover.fetches[2].blocks) == set(range(4))


def test_what_only_makes_kv_for_others_waits_for_no_chunk() -> None:
    engine = HandDriven(max_num_tokens=4)
    engine.add(make_request(1, num_prompt=12, type="context_only"))
    steps = [engine.step() for _ in range(3)]
    assert [chunk.num_logits for step in steps if step for chunk in step.chunks] == [0, 0, 1]


def test_kv_of_another_prompt_is_not_fetched() -> None:
    """As where the two phases were given the text, and a template with the time of day made tokens of it."""
    context, engine = HandDriven(), HandDriven()
    last = context_leg(context, request_id=1, num_prompt=9)
    other = [*make_request(1, 9).prompt_token_ids[:-1], 3]
    request = generation_request(1, last, prompt=other)
    engine.add(request)
    engine.run()
    assert not engine.handover.fetches
    assert engine.tokens(1) == tokens_alone(request, request.sampling.max_tokens)
    engine.assert_empty()
