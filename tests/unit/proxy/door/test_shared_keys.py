"""Limits of a client hold for all processes of a proxy together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from trtdisagg.config.api_keys import ApiKey, make_api_key
from trtdisagg.errors import RateLimitError, StartupError
from trtdisagg.protocol.loads import KEY_ROWS, LoadFile
from trtdisagg.proxy.door.keys import Client, Keys
from trtdisagg.proxy.door.shared_keys import SharedKeys

MADE = {name: make_api_key(name) for name in ("alice", "bob")}


def entry(name: str, requests_per_minute: int | None = None, max_in_flight: int | None = None) -> ApiKey:
    return replace(MADE[name][1], requests_per_minute=requests_per_minute, max_in_flight=max_in_flight)


def client(keys: Keys, name: str) -> Client:
    return keys.find(f"Bearer {MADE[name][0]}")


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[list[SharedKeys]]:
    """Of three processes."""
    file = LoadFile.make(tmp_path / "loads")
    file.num_columns = 3
    all_of_them = [SharedKeys(str(tmp_path / "loads"), column) for column in range(3)]
    yield all_of_them
    for each in (*all_of_them, file):
        each.close()


def test_requests_in_flight_are_those_of_all(shared: list[SharedKeys]) -> None:
    processes = [Keys([entry("bob"), entry("alice", max_in_flight=2)], 0.0, each) for each in shared]
    first, second, third = (client(keys, "alice") for keys in processes)
    first.begin(0.0)
    second.begin(0.0)
    for each in (first, second, third):
        with pytest.raises(RateLimitError, match="2 requests in flight"):
            each.begin(0.0)
    client(processes[0], "bob").begin(0.0)
    first.end()
    third.begin(0.0)
    with pytest.raises(RateLimitError):
        first.begin(0.0)


def test_a_minutes_requests_are_those_of_all(shared: list[SharedKeys]) -> None:
    processes = [Keys([entry("alice", requests_per_minute=30)], 0.0, each) for each in shared]
    asked = 0
    for now in range(60):
        for keys in processes:
            alice = client(keys, "alice")
            for _ in range(2):
                try:
                    alice.begin(float(now))
                except RateLimitError:
                    continue
                alice.end()
                asked += 1
    # What was held, what flowed in, and at most one too many for each of the others.
    assert 58 <= asked <= 30 + 29.5 + 2


def test_what_was_asked_before_the_file_changed_is_not_counted_again(shared: list[SharedKeys]) -> None:
    processes = [Keys([entry("bob"), entry("alice", 100, 3)], 0.0, each) for each in shared]
    for keys in processes:
        alice = client(keys, "alice")
        for _ in range(10):
            alice.begin(0.0)
            alice.end()
    client(processes[1], "alice").begin(0.0)
    client(processes[0], "alice").begin(0.0)
    before = client(processes[0], "alice").allowance.headers(0.0)["x-ratelimit-remaining-requests"]
    assert before == "68"
    for keys in processes:  # one after the other, in another order
        keys.change([entry("alice", 100, 3), entry("bob")], 0.0)
        client(processes[0], "alice").allowance.look(0.0)
    alice = client(processes[0], "alice")
    assert alice.allowance.look(0.0) == 2
    assert alice.allowance.headers(0.0)["x-ratelimit-remaining-requests"] == "68"
    client(processes[0], "bob").begin(0.0)


def test_a_process_that_has_ended_has_nothing_in_flight(shared: list[SharedKeys], tmp_path: Path) -> None:
    first, second = (Keys([entry("alice", 100, 1)], 0.0, each) for each in shared[:2])
    client(first, "alice").begin(0.0)
    file = LoadFile.open(str(tmp_path / "loads"))
    file.write(KEY_ROWS[0], 0, 0, 0)  # as the agent does
    file.close()
    client(second, "alice").begin(0.0)


def test_what_a_client_without_a_key_any_more_has_in_flight_is_not_counted_for_another(
    shared: list[SharedKeys],
) -> None:
    first, second = (Keys([entry("alice"), entry("bob")], 0.0, each) for each in shared[:2])
    gone = client(first, "alice")
    gone.begin(0.0)
    for keys in (first, second):
        keys.change([entry("bob", max_in_flight=2)], 0.0)
    client(first, "bob").begin(0.0)
    gone.end()
    assert client(second, "bob").allowance.look(0.0) == 1


def test_keys_without_a_place_are_counted_by_each_process(shared: list[SharedKeys]) -> None:
    many = [replace(make_api_key(f"k{i}")[1]) for i in range(len(KEY_ROWS))]
    first, second = (Keys([*many, entry("alice", max_in_flight=1)], 0.0, each) for each in shared[:2])
    client(first, "alice").begin(0.0)
    client(second, "alice").begin(0.0)
    with pytest.raises(RateLimitError):
        client(second, "alice").begin(0.0)


def test_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="load_file"):
        SharedKeys(str(tmp_path / "none"), 0)
