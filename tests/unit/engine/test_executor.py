"""The public API over the engine's own thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from fakes.handover import FakeHandover, ticket
from fakes.runner import FakeRunner, tokens_alone
from helpers.engine import make_limits, make_request
from torch import Tensor

from trtdisagg.engine import progress
from trtdisagg.engine.core import IDLE_S, EngineCore
from trtdisagg.engine.executor import Executor
from trtdisagg.engine.progress import Pulse
from trtdisagg.engine.request import Output
from trtdisagg.engine.step import Step
from trtdisagg.errors import ContextLengthError, OverloadedError, RequestError, UnavailableError

LONG_S = 20.0


class GatedRunner(FakeRunner):
    """Computes a step only once the gate is open."""

    def __init__(self) -> None:
        super().__init__(tokens_per_block=4)
        self.gate = threading.Event()
        self.gate.set()
        self.is_inside = threading.Event()

    def run(self, step: Step) -> Tensor:
        self.is_inside.set()
        assert self.gate.wait(LONG_S)
        return super().run(step)


@dataclass
class Rig:
    runner: GatedRunner
    handover: FakeHandover
    executor: Executor

    def all_of(self, request_id: int) -> list[Output]:
        outputs: list[Output] = []
        while not (outputs and outputs[-1].finish_reason):
            new = self.executor.await_responses(request_id, timeout_s=LONG_S)
            assert new, "no output in time"
            outputs += new
        return outputs


@pytest.fixture
def rig() -> Iterator[Rig]:
    runner, handover = GatedRunner(), FakeHandover()
    limits = make_limits(max_queue_size=4)
    with Executor(runner=runner, limits=limits, handover=handover) as executor:
        yield Rig(runner, handover, executor)
        runner.gate.set()
    assert executor.stats().num_running == executor.stats().num_waiting == 0


def test_a_request_gets_its_tokens_and_others_theirs(rig: Rig) -> None:
    requests = [make_request(i, num_prompt=3 + i, max_tokens=5) for i in range(4)]
    for request in requests:
        assert rig.executor.enqueue_request(request) == request.id
    for request in reversed(requests):
        tokens = [t for o in rig.all_of(request.id) for t in o.new_token_ids]
        assert tokens == tokens_alone(request, 5)
    assert rig.executor.await_responses(timeout_s=0) == []


def test_responses_of_all_requests_can_be_awaited_at_once(rig: Rig) -> None:
    for request_id in (1, 2):
        rig.executor.enqueue_request(make_request(request_id, max_tokens=1))
    outputs: list[Output] = []
    while len(outputs) < 2:
        outputs += rig.executor.await_responses(timeout_s=LONG_S)
    assert sorted(o.request_id for o in outputs) == [1, 2]


def test_waiting_for_what_never_comes_has_a_deadline(rig: Rig) -> None:
    assert rig.executor.await_responses(1, timeout_s=0.01) == []


def test_outputs_are_delivered_once_a_step_from_one_thread() -> None:
    delivered: list[tuple[str, list[Output]]] = []
    done = threading.Event()

    def deliver(outputs: list[Output]) -> None:
        delivered.append((threading.current_thread().name, outputs))
        if sum(o.finish_reason is not None for _, outs in delivered for o in outs) == 2:
            done.set()

    runner = GatedRunner()
    runner.gate.clear()
    with Executor(runner=runner, limits=make_limits(), deliver=deliver) as executor:
        executor.enqueue_request(make_request(1, max_tokens=3))
        assert runner.is_inside.wait(LONG_S)
        executor.enqueue_request(make_request(2, max_tokens=3))
        runner.gate.set()
        assert done.wait(LONG_S)
    assert [[o.request_id for o in outputs] for _, outputs in delivered] == [[1], [1, 2], [1, 2], [2]]
    assert {name for name, _ in delivered} == {"engine"}


def test_a_taker_that_raises_does_not_stop_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    taken: list[Output] = []
    done = threading.Event()

    def deliver(outputs: list[Output]) -> None:
        if not taken:
            taken.extend(outputs)
            raise RuntimeError("closed")
        done.set()

    with Executor(runner=GatedRunner(), limits=make_limits(), deliver=deliver) as executor:
        executor.enqueue_request(make_request(1))
        assert done.wait(LONG_S)
        assert executor.health() is None
    assert "could not be delivered" in caplog.text


def test_cancel_and_then_the_id_is_free_again(rig: Rig) -> None:
    rig.runner.gate.clear()
    rig.executor.enqueue_request(make_request(1, max_tokens=50))
    with pytest.raises(RequestError, match="has not ended"):
        rig.executor.enqueue_request(make_request(1))
    rig.executor.cancel_request(1)
    rig.runner.gate.set()
    assert rig.all_of(1)[-1].finish_reason == "cancelled"
    rig.executor.enqueue_request(make_request(1, max_tokens=1))
    assert rig.all_of(1)[-1].finish_reason == "length"


def test_an_end_of_sequence_that_the_model_does_not_have_ends_and_bans_nothing() -> None:
    request = make_request(1, sampling={"ignore_eos": False, "min_tokens": 2})
    limits = make_limits()
    with Executor(runner=FakeRunner(4), limits=limits, eos_token_ids=frozenset({-1, limits.vocab_size})) as executor:
        executor.enqueue_request(request)
        tokens: list[int] = []
        while len(tokens) < 6:
            [*outputs] = executor.await_responses(1, timeout_s=10)
            assert outputs
            assert outputs[-1].error is None
            tokens += [t for o in outputs for t in o.new_token_ids]
    assert tokens == tokens_alone(request, 6)


def test_a_full_queue_is_said_at_once(rig: Rig) -> None:
    rig.runner.gate.clear()
    rig.executor.enqueue_request(make_request(0))
    assert rig.runner.is_inside.wait(LONG_S)
    for request_id in range(1, 5):
        rig.executor.enqueue_request(make_request(request_id))
    with pytest.raises(OverloadedError, match="4 requests wait"):
        rig.executor.enqueue_request(make_request(5))


def test_what_can_never_be_served_is_refused_before_it_enters(rig: Rig) -> None:
    for call in (rig.executor.check, rig.executor.enqueue_request):
        with pytest.raises(ContextLengthError, match="70"):
            call(make_request(1, num_prompt=20, max_tokens=50))
    assert rig.executor.stats().num_requests_total == 0


def test_disaggregated_requests_need_a_handover() -> None:
    with Executor(runner=GatedRunner(), limits=make_limits()) as executor:
        for request in (make_request(1, type="context_only"), make_request(1, ticket=ticket(1, 5, [0, 1]))):
            with pytest.raises(RequestError, match=r"not enabled, please check .*cache_transceiver_config\.backend"):
                executor.check(request)
        executor.check(make_request(1, type="generation_only", output_token_ids=[3]))


def test_transfers_end_from_any_thread(rig: Rig) -> None:
    rig.executor.enqueue_request(make_request(1, type="context_only"))
    [output] = rig.all_of(1)
    assert output.ticket is not None
    rig.executor.enqueue_request(
        make_request(2, ticket=ticket(2, 5, [0, 1]), type="generation_only", output_token_ids=[3])
    )
    assert rig.handover.has_begun.wait(LONG_S)
    rig.handover.end_fetch(2, "gone")
    assert rig.all_of(2)[-1].finish_reason == "length"
    rig.handover.release(1)


def test_shutdown_cancels_what_runs_and_takes_nothing_more() -> None:
    runner = GatedRunner()
    runner.gate.clear()
    executor = Executor(runner=runner, limits=make_limits())
    executor.start()
    executor.enqueue_request(make_request(1, max_tokens=50))
    assert runner.is_inside.wait(LONG_S)
    stopper = threading.Thread(target=executor.shutdown)
    stopper.start()
    runner.gate.set()
    stopper.join(LONG_S)
    assert executor.await_responses(1, timeout_s=0)[-1].finish_reason == "cancelled"
    with pytest.raises(UnavailableError):
        executor.enqueue_request(make_request(2))
    assert executor.health() == "the engine loop does not run"
    executor.shutdown()


def test_shutdown_waits_for_a_fetch_that_writes_but_not_for_ever(rig: Rig) -> None:
    rig.executor.enqueue_request(make_request(1, ticket=ticket(1, 5, [0, 1]), output_token_ids=[3]))
    assert rig.handover.has_begun.wait(LONG_S)
    stopper = threading.Thread(target=rig.executor.shutdown)
    stopper.start()
    assert rig.all_of(1)[-1].finish_reason == "cancelled"
    assert stopper.is_alive()
    rig.handover.end_fetch(1)
    stopper.join(LONG_S)
    assert not stopper.is_alive()
    assert rig.executor.stats().num_used_blocks == 0


def test_health_says_why() -> None:
    runner = GatedRunner()
    executor = Executor(runner=runner, limits=make_limits(), stall_timeout_s=0.05)
    assert executor.health() == "the engine loop does not run"
    runner.gate.clear()
    with executor:
        executor.enqueue_request(make_request(1))
        assert runner.is_inside.wait(LONG_S)
        stalled = threading.Event()
        while not (reason := executor.health()):
            stalled.wait(0.01)
        assert "no progress" in reason
        runner.gate.set()


def pulse_without_work(executor: Executor) -> Pulse:
    looking = threading.Event()
    while (pulse := executor.pulse()).is_working:
        looking.wait(0.01)
    return pulse


def test_having_nothing_to_do_is_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 0.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now_s))
    with Executor(runner=GatedRunner(), limits=make_limits(), stall_timeout_s=1.0) as executor:
        pulse_without_work(executor)
        now_s = 100.0
        assert executor.health() is None
        executor.enqueue_request(make_request(1))
        assert executor.health() is None  # the idle time before is not held against it
        assert executor.await_responses(1, timeout_s=LONG_S)


def test_waiting_for_blocks_of_others_is_no_work(rig: Rig) -> None:
    request = make_request(1, type="generation_only", output_token_ids=[3], ticket=ticket(9, 5, [0, 1]))
    rig.executor.enqueue_request(request)
    assert rig.handover.has_begun.wait(LONG_S)
    waiting = pulse_without_work(rig.executor)
    assert rig.executor.stats().num_running == 1
    rig.handover.end_fetch(1)
    assert rig.all_of(1)
    assert rig.executor.pulse().num_ticks > waiting.num_ticks


def test_computing_is_work_and_each_step_progress(rig: Rig) -> None:
    before = rig.executor.pulse()
    rig.runner.gate.clear()
    rig.executor.enqueue_request(make_request(1))
    assert rig.runner.is_inside.wait(LONG_S)
    inside = rig.executor.pulse()
    assert inside.is_working
    assert rig.executor.pulse() == inside
    rig.runner.gate.set()
    rig.all_of(1)
    assert rig.executor.pulse().num_ticks >= before.num_ticks + 6


def test_a_loop_that_has_ended_counts_as_stuck() -> None:
    executor = Executor(runner=GatedRunner(), limits=make_limits())
    assert executor.pulse() == (0, True)


def test_a_fault_of_the_loop_itself_answers_everybody_and_shows(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.runner.gate.clear()
    rig.executor.enqueue_request(make_request(1))
    assert rig.runner.is_inside.wait(LONG_S)
    monkeypatch.setattr("trtdisagg.engine.schedulers.Scheduler.computed", None)
    rig.runner.gate.set()
    assert "broken" in (rig.all_of(1)[-1].error or "")
    assert "broken" in (rig.executor.health() or "")
    rig.executor.enqueue_request(make_request(2))
    assert "TypeError" in (rig.all_of(2)[-1].error or "")


def test_an_idle_engine_waits_on_its_inbox(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts: list[float] = []
    is_idle, receive = threading.Event(), EngineCore.receive

    def watched(core: EngineCore, timeout_s: float) -> bool:
        timeouts.append(timeout_s)
        if len(timeouts) > 1 and timeout_s:
            is_idle.set()
        return receive(core, timeout_s)

    monkeypatch.setattr(EngineCore, "receive", watched)
    rig.executor.enqueue_request(make_request(1, max_tokens=3))
    assert rig.all_of(1)[-1].finish_reason == "length"
    assert is_idle.wait(LONG_S)
    assert timeouts[-1] == IDLE_S
    assert len(timeouts) <= 6  # one for each step, one that finds nothing, and those that wait


def test_an_idle_engine_looks_for_lost_blocks(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtdisagg.engine.core.IDLE_S", 0.01)
    rig.runner.gate.clear()
    rig.executor.enqueue_request(make_request(1, max_tokens=1))
    assert rig.runner.is_inside.wait(LONG_S)
    rig.executor._core._lifecycle._schedulers.each[0].blocks.allocate(1)
    rig.runner.gate.set()
    assert rig.all_of(1)[-1].finish_reason == "length"
    a_while = threading.Event()
    while not (reason := rig.executor.health()):
        a_while.wait(0.01)
    assert "counts 1 owners and has 0" in reason
