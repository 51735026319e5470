"""How often a request is tried again, and all requests together."""

from __future__ import annotations

import pytest

from trtdisagg.errors import DeadlineError, RequestError, TrtdisaggError, UnavailableError
from trtdisagg.protocol.answers import encode_error
from trtdisagg.protocol.control import Member
from trtdisagg.proxy.path.failures import LegFailedError, RefusedError, from_event
from trtdisagg.proxy.path.retries import FLOOR_PER_S, MAX_SAVED, MAX_UNSEEN, Retries, RetryBudget

SERVER = Member(name="generation-0", role="generation", model="m", url="h:1")
BROKE = LegFailedError(SERVER, "broke")
UNSEEN = LegFailedError(SERVER, "refused", reached=False)
ANSWERED = LegFailedError(SERVER, "500", status=500)


def retries(max_retries: int, max_migrations: int, share: float = 1.0) -> Retries:
    return Retries(RetryBudget(share, 0.0), max_retries, max_migrations)


def test_before_and_behind_the_first_token_are_counted_apart() -> None:
    left = retries(1, 2)
    assert left.take(BROKE, has_begun=False)
    assert left.take(BROKE, has_begun=True)
    assert left.take(BROKE, has_begun=True)
    assert not left.take(BROKE, has_begun=True)
    assert not retries(0, 3).take(BROKE, has_begun=False)
    assert not retries(3, 0).take(BROKE, has_begun=True)


def test_a_server_that_has_not_seen_it_costs_nothing_but_has_its_bound() -> None:
    left = retries(0, 0)
    assert [left.take(UNSEEN, has_begun=False) for _ in range(MAX_UNSEEN + 1)] == [True] * MAX_UNSEEN + [False]


def test_what_is_saved_is_spent_and_comes_back_with_requests_and_with_time() -> None:
    budget = RetryBudget(0.2, 0.0)
    assert sum(budget.take(0.0) for _ in range(2 * int(MAX_SAVED))) == MAX_SAVED
    for _ in range(100):
        budget.add_request()
    assert sum(budget.take(0.0) for _ in range(100)) in (19, 20)
    assert sum(budget.take(1.0) for _ in range(100)) in (FLOOR_PER_S, FLOOR_PER_S + 1)
    assert sum(budget.take(1e6) for _ in range(1000)) == MAX_SAVED


def test_only_servers_that_answer_with_errors_cost_the_budget() -> None:
    spent = _Spent()
    assert Retries(spent, 1, 0).take(BROKE, has_begun=False)
    assert not Retries(spent, 1, 0).take(ANSWERED, has_begun=False)


class _Spent(RetryBudget):
    def __init__(self) -> None:
        super().__init__(0.0, 0.0)

    def take(self, now: float) -> bool:
        return False


@pytest.mark.parametrize(
    ("error", "status"), [(RequestError("your fault"), 400), (DeadlineError("your time is over"), 504)]
)
def test_errors_of_the_request_in_a_stream_are_for_the_client(error: TrtdisaggError, status: int) -> None:
    refused = from_event(SERVER, encode_error(error))
    assert isinstance(refused, RefusedError)
    assert (refused.status, refused.as_event()) == (status, encode_error(error))


@pytest.mark.parametrize("data", [encode_error(TrtdisaggError("a bug")), encode_error(UnavailableError("no")), b"{"])
def test_other_errors_in_a_stream_are_the_servers(data: bytes) -> None:
    assert isinstance(from_event(SERVER, data), LegFailedError)
