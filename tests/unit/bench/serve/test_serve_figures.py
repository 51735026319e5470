"""What each figure of a report means."""

from __future__ import annotations

from array import array
from typing import Any

import msgspec
import pytest

from trtdisagg.bench.serve.figures import spread, timed
from trtdisagg.bench.serve.load import Load
from trtdisagg.bench.serve.outcome import Outcome
from trtdisagg.bench.serve.self_watch import Health
from trtdisagg.bench.serve.summary import Ran, summarize

WELL = Health()


def outcome(
    *heard_ms: float, num_by: tuple[int, ...] | None = None, num_tokens: int | None = None, **more: Any
) -> Outcome:
    """Sent at 1 s; chunks come so much later, each with a token where nothing else is said."""
    heard_at = array("d", (1 + ms / 1000 for ms in heard_ms))
    nums = num_by or tuple(range(1, len(heard_ms) + 1))
    return Outcome(
        **{
            "index": 0,
            "max_tokens": nums[-1] if nums else 1,
            "sent_at": 1.0,
            "heard_at": heard_at,
            "num_by": array("q", nums),
            "num_guessed": 0 if num_by else len(heard_ms),
            "ended_at": heard_at[-1] if heard_at else 1.0,
            "num_input_tokens": 10,
            "num_output_tokens": nums[-1] if num_by else num_tokens,
            **more,
        }
    )


def report(*outcomes: Outcome, duration_s: float = 2.0, health: Health = WELL, **said: Any) -> Any:
    load = Load(**{"url": "http://x", "num_prompts": len(outcomes), **said})
    return summarize(Ran(load=load, model="m", outcomes=outcomes, duration_s=duration_s, health=health))


def test_times_of_a_stream() -> None:
    found = timed(outcome(100, 120, 160, 200))
    assert (found.ttft, found.tpot, found.e2el) == (pytest.approx(100), pytest.approx(100 / 3), pytest.approx(200))
    assert found.itl.tolist() == pytest.approx([20, 40, 40])


def test_tokens_of_a_chunk_share_the_gap_before_it() -> None:
    """3 tokens after 60 ms are three gaps of 20; those that come with the first chunk have none."""
    found = timed(outcome(100, 160, 170, num_by=(2, 5, 6)))
    assert found.itl.tolist() == pytest.approx([20, 20, 20, 10])
    assert found.tpot == pytest.approx(70 / 5)


def test_where_only_the_whole_is_known_all_chunks_count_as_equal() -> None:
    found = timed(outcome(100, 160, 220, num_tokens=7))
    assert found.itl.tolist() == pytest.approx([20, 20])
    assert found.tpot == pytest.approx(20)


def test_a_single_token_has_no_tpot() -> None:
    found = timed(outcome(100))
    assert (found.ttft, found.tpot, len(found.itl)) == (pytest.approx(100), None, 0)


def test_what_is_not_streamed_has_one_time() -> None:
    found = timed(outcome(ended_at=1.5, num_output_tokens=8))
    assert (found.ttft, found.tpot, found.e2el) == (None, None, pytest.approx(500))


def test_spread() -> None:
    found = spread("ttft", [float(i) for i in range(101)])
    assert (found["mean_ttft_ms"], found["median_ttft_ms"], found["p50_ttft_ms"]) == (50, 50, 50)
    assert (found["p90_ttft_ms"], found["p99_ttft_ms"]) == (90, 99)
    assert found["std_ttft_ms"] == pytest.approx(29.155, abs=0.001)
    assert set(spread("itl", []).values()) == {None}
    assert found.keys() == spread("ttft", []).keys()


def test_counts_and_rates() -> None:
    lost = outcome(50, error="HTTP 429", message="full")
    gone = outcome(50, is_cancelled=True)
    found = report(outcome(100, 120), outcome(200, 240, num_by=(1, 3)), lost, gone, num_cores=4, num_gpus=2)
    assert (found.num_prompts, found.completed, found.failed, found.cancelled) == (4, 2, 1, 1)
    assert (found.total_input_tokens, found.total_output_tokens) == (20, 5)
    assert (found.request_throughput, found.output_throughput, found.total_token_throughput) == (1.0, 2.5, 12.5)
    assert (found.output_throughput_per_gpu, found.output_throughput_per_core) == (1.25, 0.625)
    assert found.user_throughput == pytest.approx((2 / 0.120 + 3 / 0.240) / 2)
    assert found.interactivity == pytest.approx(50)  # TPOT 20 ms both
    assert found.mean_ttft_ms == pytest.approx(150)
    assert found.errors == {"HTTP 429": 1}
    assert "HTTP 429: full" in found.warnings


@pytest.mark.parametrize(
    ("targets", "num_good"),
    [
        ({"ttft": 150}, 2),
        ({"ttft": 101}, 1),
        ({"tpot": 21}, 2),
        ({"tpot": 19}, 1),  # that of one token has no TPOT
        ({"itl": 35, "ttft": 300}, 2),
        ({"e2el": 121}, 1),
        ({}, None),
    ],
)
def test_goodput(targets: dict[str, float], num_good: int | None) -> None:
    outcomes = (outcome(100, 120), outcome(200, 240), outcome(125))
    found = report(*outcomes, duration_s=1.0, goodput=targets)
    assert found.request_goodput == num_good


def test_what_to_know_before_figures_are_compared() -> None:
    def warned(*outcomes: Outcome, **said: Any) -> str:
        return "\n".join(report(*outcomes, **said).warnings)

    assert warned(outcome(100, 120, num_by=(1, 4))) == ""
    assert "each chunk counts as one" in warned(outcome(100, 120))
    assert "ITL counts them as equal" in warned(outcome(100, 120, num_tokens=9))
    assert "no sum of them" in warned(outcome(100, num_by=(1,), num_input_tokens=None))
    assert "no figure of them" in warned(outcome(), is_streamed=False)
    assert "1 of 1 answers ended before" in warned(outcome(100, num_by=(1,), max_tokens=9))
    assert "1 of 1 answers ended before" in warned(outcome(num_tokens=0), is_streamed=False)
    assert warned(outcome(100, num_by=(1,), max_tokens=9), ignore_eos=True) == ""


@pytest.mark.parametrize(
    ("health", "words"),
    [
        (Health(busy=0.95), "busy 95%"),
        (Health(late_ms=33), "33 ms late"),
        (Health(begin_late_ms=44), "went out up to 44 ms late"),
    ],
)
def test_a_client_that_cannot_keep_up_says_so(health: Health, words: str) -> None:
    found = report(outcome(100, num_by=(1,)), health=health)
    assert found.is_client_bound
    assert words in found.warnings[0]
    assert not report(outcome(100, num_by=(1,)), health=Health(busy=0.5, late_ms=5)).is_client_bound


def test_figures_of_each_request_where_they_are_asked_for() -> None:
    later = outcome(100, 130, sent_at=1.05, num_by=(1, 3))
    found = msgspec.to_builtins(report(later, outcome(50, error="timeout", ended_at=9.0), is_detailed=True))
    assert found["outcomes"] == ["timeout", "completed"]
    assert (found["input_lens"], found["output_lens"]) == ([10, 10], [1, 3])
    assert found["start_times"] == pytest.approx([0, 0.05])
    assert found["ttfts"] == pytest.approx([0.05, 0.05])
    assert found["itls"] == [[], [pytest.approx(0.03)]]
    assert found["e2els"] == pytest.approx([8, 0.08])
    assert "ttfts" not in msgspec.to_builtins(report(later))


def test_nothing_completed_is_a_report_all_the_same() -> None:
    found = report(outcome(error="timeout"), duration_s=0.0)
    assert (found.completed, found.request_throughput, found.output_throughput) == (0, 0.0, 0.0)
    assert (found.p99_e2el_ms, found.user_throughput, found.interactivity) == (None, None, None)


def test_what_nobody_counts_has_no_figure() -> None:
    """Of one answer that is not streamed the server does not say how many tokens it has."""
    found = report(outcome(ended_at=1.5, num_output_tokens=8), outcome(ended_at=2.0), is_streamed=False, num_gpus=1)
    assert (found.total_output_tokens, found.output_throughput, found.output_throughput_per_gpu) == (None, None, None)
    assert (found.total_input_tokens, found.total_token_throughput) == (20, None)
    assert found.user_throughput == pytest.approx(16)  # of the one that is known
    assert (found.mean_ttft_ms, found.p99_tpot_ms, found.interactivity) == (None, None, None)
