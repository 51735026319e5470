"""Times of single requests, on a clock that the test turns."""

from __future__ import annotations

import pytest
from fakes.handover import ticket
from helpers.engine import HandDriven, make_request

from trtdisagg.cache.transfers import Transfer
from trtdisagg.engine.record import Record
from trtdisagg.engine.request import Request


def handed_over(request_id: int) -> Request:
    """One whose nine tokens of KV are somewhere else."""
    return make_request(
        request_id, num_prompt=9, max_tokens=4, output_token_ids=[3], ticket=ticket(request_id, 9, [0, 1, 2])
    )


def record_of(engine: HandDriven, request_id: int, choice: int = 0) -> Record:
    record = engine.first(request_id, choice).record
    assert record is not None
    return record


def test_a_request_that_is_computed_here() -> None:
    engine = HandDriven(max_num_tokens=4)
    engine.add(make_request(1, num_prompt=9, max_tokens=3))
    for now_s in range(1001, 1007):
        engine.now_s = now_s
        engine.step()
    record = record_of(engine, 1)
    assert (record.arrived_s, record.scheduled_s) == (1000, 1001)
    assert (record.first_token_s, record.last_token_s) == (1003, 1005), "the prompt takes three steps"
    assert (record.first_step, record.last_step) == (1, 5)
    assert (record.num_blocks, record.num_reused_blocks, record.num_missed_blocks) == (3, 0, 3)
    assert record.transfer is None
    assert [output.record for output in engine.outputs[1][1:]] == [None, None], "with the first output alone"


def test_one_whose_kv_is_fetched_is_scheduled_behind_the_transfer() -> None:
    engine = HandDriven()
    engine.add(handed_over(1))
    engine.step()
    engine.now_s = 1005.0
    engine.handover.end_fetch(1, transfer=Transfer(1001.0, 1004.0, num_bytes=77))
    engine.run()
    record = record_of(engine, 1)
    assert record.transfer is not None
    assert record.transfer.num_bytes == 77
    times = [record.arrived_s, record.transfer.started_s, record.transfer.ended_s, record.scheduled_s]
    assert times == [1000, 1001, 1004, 1005]


def test_a_transfer_that_failed_is_none() -> None:
    engine = HandDriven()
    engine.add(handed_over(1))
    engine.step()
    engine.now_s = 1005.0
    engine.handover.end_fetch(1, "lost")
    engine.run()
    assert record_of(engine, 1).transfer is None
    assert record_of(engine, 1).scheduled_s == 1005


def test_what_is_found_is_counted_once_also_when_it_is_put_out() -> None:
    engine = HandDriven()
    for request_id in (1, 2):
        engine.add(make_request(request_id, prompt=list(range(1, 14)), max_tokens=3))
        engine.run()
    record = record_of(engine, 2)
    assert (record.num_blocks, record.num_reused_blocks, record.num_missed_blocks) == (4, 3, 1)


@pytest.mark.parametrize("num_choices", [1, 3])
def test_choices_share_one(num_choices: int) -> None:
    engine = HandDriven()
    engine.add(make_request(1, num_choices=num_choices, sampling={"temperature": 1.0, "seed": 3}))
    engine.run()
    assert len({id(record_of(engine, 1, choice)) for choice in range(num_choices)}) == 1
