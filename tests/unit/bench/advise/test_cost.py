"""Costs of steps, from measurements of servers whose costs are known."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from helpers import advice
from helpers.advice import decode_s, prefill_s, profile, server_profile

from trtdisagg.bench.advise.cost import make_cost, num_pairs, transfer_of
from trtdisagg.bench.advise.profile import Decode, Handover, Prefill

COST = make_cost(server_profile(), max_batch_size=128, max_num_tokens=4096)


@pytest.mark.parametrize(("num_streams", "num_tokens"), [(1, 100), (3, 500), (20, 28), (64, 1000), (100, 50)])
def test_streams(num_streams: int, num_tokens: int) -> None:
    assert COST.step_s(num_streams, num_streams * num_tokens, 0, 0) == pytest.approx(
        decode_s(num_streams, num_tokens), rel=0.02
    )


@pytest.mark.parametrize("num_tokens", [1, 10, 100, 500, 2000, 4000])
def test_prompts(num_tokens: int) -> None:
    # A prompt of one token is a step like that of a stream: what it takes more counts as the way there.
    way_s = advice.REQUEST_S + prefill_s(1) - decode_s(1, 28)
    assert COST.request_s == pytest.approx(way_s, abs=1e-4)
    assert COST.request_s + COST.prompt_s(num_tokens) == pytest.approx(
        advice.REQUEST_S + prefill_s(num_tokens), rel=0.02
    )


def test_a_prompt_in_chunks_costs_each_chunk_its_step() -> None:
    in_chunks = COST._replace(prefill_s=COST.prefill_s[:513])
    expected_s = COST.prompt_s(1024) + COST.prefill_s[512] * 2 - COST.prefill_s[1024]
    assert in_chunks.prompt_s(1024) == pytest.approx(expected_s, rel=1e-6)


def test_pairs_of_chunks_are_those_of_the_whole() -> None:
    assert sum(num_pairs(start, 64) for start in range(0, 256, 64)) == num_pairs(0, 256) == 256 * 257 / 2


def test_a_step_with_both_reads_the_weights_once() -> None:
    assert COST.shared_s == pytest.approx(advice.SHARED_S, abs=3e-4)
    apart_s = COST.step_s(4, 400, 0, 0) + COST.step_s(0, 0, 256, num_pairs(0, 256))
    assert COST.step_s(4, 400, 256, num_pairs(0, 256)) == pytest.approx(apart_s - COST.shared_s)


def test_what_took_longer_than_more_of_it_was_disturbed() -> None:
    measured = server_profile()
    disturbed = [Decode(1, 28, 0.5), Prefill(4, 0.5)]
    measured.decodes[0], measured.prefills[1] = disturbed  # type: ignore[call-overload]
    cost = make_cost(measured, max_batch_size=64, max_num_tokens=2048)
    assert cost.decode_s[1] < 2 * decode_s(1, 28)
    assert np.all(np.diff(cost.decode_s) >= 0)
    assert np.all(np.diff(cost.prefill_s) >= 0)


def test_handovers() -> None:
    assert transfer_of(profile()) == pytest.approx((advice.HANDOVER_S, advice.FETCH_TOKEN_S))


def test_a_handover_never_costs_less_for_more_tokens() -> None:
    noisy = msgspec.structs.replace(profile(), handovers=[Handover(16, 0.004), Handover(1024, 0.002)])
    assert transfer_of(noisy) == pytest.approx((0.003, 0.0))
