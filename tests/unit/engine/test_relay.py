"""What becomes of a request on its way over two executors, whatever happens on it."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from helpers.python_api import greedy

from trtdisagg.engine.relay import Relay
from trtdisagg.engine.request import Output, Request
from trtdisagg.engine.rotation import Member
from trtdisagg.errors import ContextLengthError, OverloadedError, RequestError, TrtdisaggError, UnavailableError
from trtdisagg.protocol.handover import Ticket

PROMPT = [1, 2, 3]
TICKET = Ticket(server="s", incarnation="i", host="h", port=1, request_id=0, num_tokens=3, blocks=[0], lease_ms=1000)


@dataclass
class Recorder:
    """Takes requests and says nothing by itself."""

    requests: list[Request] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    reason: str | None = None
    refusal: TrtdisaggError | None = None
    impossible: TrtdisaggError | None = None

    def check(self, request: Request) -> None:
        if self.impossible:
            raise self.impossible

    def enqueue_request(self, request: Request) -> int:
        if self.refusal:
            raise self.refusal
        self.requests.append(request)
        return request.id

    def cancel_request(self, request_id: int) -> None:
        self.cancelled.append(request_id)

    def health(self) -> str | None:
        return self.reason


class Rig:
    def __init__(self, num_context: int = 1, num_generation: int = 1) -> None:
        self.told: list[Output] = []
        self.now_s = 100.0
        self.relay = Relay(self.told.extend, clock=lambda: self.now_s)
        self.context = [Recorder() for _ in range(num_context)]
        self.generation = [Recorder() for _ in range(num_generation)]
        self.relay.context.members += [Member(f"context executor {i}", e) for i, e in enumerate(self.context)]
        self.relay.generation.members += [Member(f"generation executor {i}", e) for i, e in enumerate(self.generation)]

    def first_token(self, token: int = 5) -> None:
        """The context phase of the last request is over."""
        leg = self.context[0].requests[-1]
        self.relay.on_context(
            [Output(request_id=leg.id, new_token_ids=[token], finish_reason="not_finished", ticket=TICKET)]
        )

    def generate(self, *tokens: int) -> None:
        """The last request is generated to its end."""
        leg = self.generation[0].requests[-1]
        outputs = [Output(request_id=leg.id, new_token_ids=[token]) for token in tokens]
        outputs[-1] = Output(request_id=leg.id, new_token_ids=[tokens[-1]], finish_reason="length")
        self.relay.on_generation(outputs)

    def assert_over(self, request_id: int = 7) -> None:
        """Nothing is kept of it: its id may be used again."""
        self.relay.enqueue(greedy(request_id, PROMPT))


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_both_legs(rig: Rig) -> None:
    rig.relay.enqueue(greedy(7, PROMPT))
    rig.first_token()
    assert rig.told == [Output(request_id=7, new_token_ids=[5])]
    leg1, leg2 = rig.context[0].requests[0], rig.generation[0].requests[0]
    assert (leg1.type, leg2.type) == ("context_only", "generation_only")
    assert (leg2.output_token_ids, leg2.ticket) == ([5], TICKET)
    assert leg1.id != leg2.id
    rig.generate(6, 8)
    assert [o.new_token_ids for o in rig.told] == [[5], [6], [8]]
    assert {o.request_id for o in rig.told} == {7}
    rig.assert_over()


def test_ids_are_the_relays_own(rig: Rig) -> None:
    for request_id in (900, -3):
        rig.relay.enqueue(greedy(request_id, PROMPT))
    assert len({leg.id for leg in rig.context[0].requests} & {900, -3}) == 0
    with pytest.raises(RequestError, match="id 900 has not ended"):
        rig.relay.enqueue(greedy(900, PROMPT))


def test_executors_take_turns() -> None:
    rig = Rig(num_context=3)
    for request_id in range(6):
        rig.relay.enqueue(greedy(request_id, PROMPT))
    assert [len(executor.requests) for executor in rig.context] == [2, 2, 2]


def test_one_that_is_not_healthy_or_full_is_passed_over() -> None:
    rig = Rig(num_context=3)
    rig.context[0].reason = "it hangs"
    rig.context[1].refusal = OverloadedError("full")
    for request_id in range(4):
        rig.relay.enqueue(greedy(request_id, PROMPT))
    assert [len(executor.requests) for executor in rig.context] == [0, 0, 4]
    rig.context[2].reason = "it hangs too"
    with pytest.raises(OverloadedError):
        rig.relay.enqueue(greedy(9, PROMPT))


def test_nobody_is_healthy(rig: Rig) -> None:
    rig.context[0].reason = "its loop does not run"
    with pytest.raises(UnavailableError, match="context executor 0: its loop"):
        rig.relay.enqueue(greedy(7, PROMPT))
    rig.context[0].reason = None
    rig.assert_over()


def test_what_generation_can_never_serve_does_not_begin(rig: Rig) -> None:
    rig.generation[0].impossible = ContextLengthError("too long")
    with pytest.raises(ContextLengthError):
        rig.relay.enqueue(greedy(7, PROMPT))
    assert not rig.context[0].requests


def test_half_a_request_is_refused(rig: Rig) -> None:
    with pytest.raises(RequestError, match="context_only"):
        rig.relay.enqueue(greedy(7, PROMPT, kind="context_only"))


def test_the_answer_ends_in_its_context_phase(rig: Rig) -> None:
    rig.relay.enqueue(greedy(7, PROMPT, max_tokens=1))
    rig.relay.on_context([Output(request_id=0, new_token_ids=[5], finish_reason="length")])
    assert [o.finish_reason for o in rig.told] == ["length"]
    assert not rig.generation[0].requests
    rig.assert_over()


def test_a_phase_that_fails_is_named(rig: Rig) -> None:
    rig.relay.enqueue(greedy(7, PROMPT))
    rig.relay.on_context([Output(request_id=0, finish_reason="error", error="no memory")])
    assert rig.told[-1].error == "context executor 0: no memory"
    rig.relay.enqueue(greedy(7, PROMPT))
    rig.first_token()
    rig.relay.on_generation([Output(request_id=2, finish_reason="error", error="no memory")])
    assert rig.told[-1].error == "generation executor 0: no memory"
    rig.assert_over()


def test_nobody_generates(rig: Rig) -> None:
    """The KV is given back: nobody will come for it."""
    rig.generation[0].reason = "its loop does not run"
    rig.relay.enqueue(greedy(7, PROMPT))
    rig.first_token()
    assert [o.finish_reason for o in rig.told] == [None, "error"]
    assert rig.context[0].cancelled == [0]
    rig.assert_over()


def test_cancelled_in_the_context_phase(rig: Rig) -> None:
    rig.relay.enqueue(greedy(7, PROMPT))
    rig.relay.cancel(7)
    assert rig.context[0].cancelled == [0]
    rig.relay.on_context([Output(request_id=0, finish_reason="cancelled")])
    assert [o.finish_reason for o in rig.told] == ["cancelled"]
    rig.assert_over()


def test_cancelled_when_the_context_phase_has_just_ended(rig: Rig) -> None:
    rig.relay.enqueue(greedy(7, PROMPT))
    rig.relay.cancel(7)
    rig.first_token()
    assert [o.finish_reason for o in rig.told] == [None, "cancelled"]
    assert not rig.generation[0].requests
    assert rig.context[0].cancelled == [0, 0]
    rig.assert_over()


def test_cancelled_in_the_generation_phase(rig: Rig) -> None:
    rig.relay.enqueue(greedy(7, PROMPT))
    rig.first_token()
    rig.relay.cancel(7)
    assert rig.generation[0].cancelled == [1]
    assert not rig.context[0].cancelled
    rig.relay.on_generation([Output(request_id=1, finish_reason="cancelled")])
    assert rig.told[-1].finish_reason == "cancelled"
    rig.relay.cancel(7)  # it has ended
    rig.assert_over()


def test_closed(rig: Rig) -> None:
    rig.relay.enqueue(greedy(7, PROMPT))
    rig.relay.close()
    rig.first_token()
    assert rig.told[-1].finish_reason == "cancelled"
    with pytest.raises(UnavailableError, match="shut down"):
        rig.relay.enqueue(greedy(8, PROMPT))


def test_one_deadline_for_both_phases(rig: Rig) -> None:
    request = greedy(7, PROMPT)
    rig.relay.enqueue(Request(id=7, prompt_token_ids=PROMPT, sampling=request.sampling, timeout_s=10.0))
    rig.now_s += 4
    rig.first_token()
    assert rig.context[0].requests[0].timeout_s == 10.0
    assert rig.generation[0].requests[0].timeout_s == 6.0
