"""The simulation: against one that goes step by step, and against what is known of queues."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from helpers.plain_simulation import PlainSimulation
from trtdisagg._sim import GAP_LEAST_S, GAP_RATIO

from trtdisagg.bench.advise.cost import Cost
from trtdisagg.bench.advise.load import Load, Targets, make_load
from trtdisagg.bench.advise.simulate import Design, Servers, run, simulate
from trtdisagg.bench.program import MeasureError
from trtdisagg.bench.workloads.lengths import Uniform


def cost(max_batch: int = 8, max_tokens: int = 64, *, base_s: float = np.pi * 1.6e-3) -> Cost:
    """Of no round figures: events at the very same moment may come in any order."""

    def table(most: int, each_s: float) -> np.ndarray:
        seconds = base_s + each_s * np.arange(most + 1)
        seconds[0] = 0.0
        return seconds

    return Cost(table(max_batch, np.e * 1e-4), table(max_tokens, np.e * 2e-5), 3e-6, 1e-6, base_s * 0.8, 1e-3)


def servers(
    num: int = 1, *, max_batch: int = 8, max_tokens: int = 64, num_kv: int = 100_000, **fields: object
) -> Servers:
    made = Servers(num, 1, cost(max_batch, max_tokens), max_batch, max_tokens, num_kv)
    return made._replace(**fields)  # type: ignore[arg-type]


def load(isl: tuple[int, int], osl: tuple[int, int], num: int, seed: int = 0, **how: object) -> Load:
    return make_load(Uniform(*isl), Uniform(*osl), num_requests=num, seed=seed, **how)  # type: ignore[arg-type]


def disaggregated(context: Servers, generation: Servers) -> Design:
    return Design(context, generation, proxy_s=1e-3, handover_s=2e-3, fetch_token_s=1e-5)


def random_design(rng: random.Random) -> Design:
    def some(num: int) -> Servers:
        return servers(
            num,
            max_batch=rng.choice([1, 2, 5, 16]),
            max_tokens=rng.choice([16, 64, 500]),
            num_kv=rng.choice([180, 300, 100_000]),
            tokens_per_block=rng.choice([1, 8]),
            reserves=rng.random() < 0.3,
            is_balanced=rng.random() < 0.5,
        )

    if rng.random() < 0.4:
        return Design(None, some(rng.randint(1, 3)), proxy_s=1e-3)
    return disaggregated(some(rng.randint(1, 3)), some(rng.randint(1, 3)))


@pytest.mark.parametrize("seed", range(30))
def test_is_what_comes_of_step_after_step(seed: int) -> None:
    rng = random.Random(seed)
    design = random_design(rng)
    how = (
        {"concurrency": rng.randint(1, 30)} if rng.random() < 0.5 else {"request_rate": rng.choice([2.0, 10.0, 100.0])}
    )
    asked = load((1, 100), (1, 60), 80, seed, **how)
    plain = PlainSimulation(design, asked)
    expected = plain.run()
    times, found = run(design, asked)
    np.testing.assert_allclose(times.arrived, [r.arrived for r in expected], atol=1e-9)
    np.testing.assert_allclose(times.first, [r.tokens[0] for r in expected], atol=1e-9)
    np.testing.assert_allclose(times.end, [r.tokens[-1] for r in expected], atol=1e-9)
    assert [len(r.tokens) for r in expected] == asked.num_output.tolist()
    assert found.num_preemptions == sum(s.num_preemptions for s in plain.generation)
    _check_gaps(np.frombuffer(found.gaps, np.int64), [r.tokens for r in expected])


def _check_gaps(counts: np.ndarray, tokens: list[list[float]]) -> None:
    gaps = np.array([after - before for times in tokens for before, after in itertools.pairwise(times)])
    assert counts.sum() == len(gaps)
    edges = GAP_LEAST_S * GAP_RATIO ** np.arange(len(counts) + 1)
    for percent in (1, 50, 99):
        exact = np.percentile(gaps, percent, method="inverted_cdf")
        place = np.searchsorted(np.cumsum(counts), percent / 100 * len(gaps))
        assert edges[place] / 1.0001 <= exact <= edges[place + 1] * 1.0001


def test_some_of_those_cases_lack_kv() -> None:
    """So that the comparison is one of preemption, too."""
    designs = [random_design(random.Random(seed)) for seed in range(30)]
    asked = load((1, 100), (1, 60), 80, concurrency=30)
    assert sum(run(design, asked)[1].num_preemptions > 0 for design in designs) >= 3


def test_the_same_seed_gives_the_same() -> None:
    design = disaggregated(servers(2), servers(3))
    one, other = (simulate(design, load((5, 50), (2, 40), 500, 7, request_rate=40.0), Targets()) for _ in range(2))
    assert one == other
    assert one != simulate(design, load((5, 50), (2, 40), 500, 8, request_rate=40.0), Targets())


@pytest.mark.parametrize("design", [Design(None, servers(2)), disaggregated(servers(1), servers(2))])
@pytest.mark.parametrize("how", [{"request_rate": 20.0}, {"concurrency": 12}])
def test_littles_law(design: Design, how: dict[str, float]) -> None:
    """Requests in the cluster on average = those that come a second x the time of each."""
    times, _ = run(design, load((5, 50), (2, 40), 2000, **how))
    moments = np.concatenate([times.arrived, times.end])
    changes = np.repeat([1, -1], len(times.end))[order := np.argsort(moments)]
    area = float(np.cumsum(changes)[:-1] @ np.diff(moments[order]))
    assert area / times.duration_s == pytest.approx(len(times.end) / times.duration_s * times.e2el_s.mean(), rel=1e-9)
    if "concurrency" in how:
        assert area / times.duration_s == pytest.approx(how["concurrency"], rel=0.02)


@pytest.mark.parametrize("utilization", [0.3, 0.7, 0.9])
def test_one_prompt_after_the_other_is_md1(utilization: float) -> None:
    """Mean wait of M/D/1: rho / (2 mu (1 - rho))."""
    one = Cost(np.array([0.0, 1e-3]), np.array([0.0, 0.1]), 0.0, 0.0, 0.0, 0.0)
    alone = Servers(1, 1, one, 1, 1, 100_000)
    asked = load((1, 1), (1, 1), 30_000, request_rate=utilization / 0.1)
    times, _ = run(Design(None, alone), asked)
    expected_s = 0.1 + utilization * 0.1 / (2 * (1 - utilization))
    assert times.ttft_s.mean() == pytest.approx(expected_s, rel=0.08)


@pytest.mark.parametrize("design", [Design(None, servers(2)), disaggregated(servers(1), servers(1))])
def test_more_load_is_never_faster(design: Design) -> None:
    base = load((5, 50), (2, 40), 1500)
    outcomes = [simulate(design, base.at(rate), Targets(ttft_ms=80, tpot_ms=12)) for rate in (1, 5, 20, 60, 200)]
    for name in ("ttft_ms", "tpot_ms", "e2el_ms"):
        means = [getattr(outcome, name).mean for outcome in outcomes]
        assert all(after >= before * 0.99 for before, after in itertools.pairwise(means)), (name, means)
    shares = [outcome.good_share for outcome in outcomes]
    assert shares == sorted(shares, reverse=True)


def test_streams_wait_for_prompts_on_a_server_that_does_both_alone() -> None:
    asked = load((60, 60), (100, 100), 300, request_rate=8.0)
    both = simulate(Design(None, servers(2)), asked, Targets())
    apart = simulate(disaggregated(servers(1), servers(1)), asked, Targets())
    assert apart.itl_ms.p99 < both.itl_ms.p99


@pytest.mark.parametrize("is_balanced", [True, False])
def test_every_request_of_many_ends_once_and_in_order(request: pytest.FixtureRequest, *, is_balanced: bool) -> None:
    """1,000 servers and a million requests, or in small."""
    scale = 1000 if request.config.getoption("--soak") else 20
    num = scale * 1000
    context = servers(scale * 2 // 5, max_batch=32, max_tokens=2048, is_balanced=is_balanced)
    generation = servers(scale * 3 // 5, max_batch=32, max_tokens=2048, is_balanced=is_balanced)
    asked = load((100, 1000), (50, 250), num, request_rate=8.0 * scale)
    times, found = run(disaggregated(context, generation), asked)
    assert np.all(times.arrived < times.first)
    assert np.all(times.first < times.end)
    assert np.frombuffer(found.gaps, np.int64).sum() == asked.num_output.sum() - num
    assert found.num_preemptions == 0


def test_a_request_that_fits_nowhere_is_told() -> None:
    with pytest.raises(MeasureError, match="the KV cache of a generation server holds 100"):
        run(Design(None, servers(num_kv=100)), load((90, 90), (50, 50), 1, concurrency=1))
