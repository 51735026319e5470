"""Who may have which page, by key and by secret."""

from __future__ import annotations

import base64

import pytest

from trtdisagg.config.api_keys import ApiKey, make_api_key
from trtdisagg.errors import AuthenticationError, RateLimitError
from trtdisagg.proxy.door.guard import Guard, visitors_of
from trtdisagg.proxy.door.keys import Keys, bearer

ALICE_KEY, ALICE = make_api_key("alice")
BOB_KEY, BOB = make_api_key("bob")


def limited(key: ApiKey, requests_per_minute: int | None = None, max_in_flight: int | None = None) -> ApiKey:
    return ApiKey(name=key.name, hash=key.hash, requests_per_minute=requests_per_minute, max_in_flight=max_in_flight)


@pytest.mark.parametrize(
    ("path", "visitors"),
    [
        ("/health", "anyone"),
        ("/set", "anyone"),
        ("/v1/completions", "clients"),
        ("/v1/models/m", "clients"),
        ("/tokenize", "clients"),
        ("/metrics", "operators"),
        ("/dashboard/events", "operators"),
        ("/whatever/comes", "operators"),
    ],
)
def test_pages_are_for(path: str, visitors: str) -> None:
    assert visitors_of(path) == visitors


@pytest.mark.parametrize(
    "given",
    [None, "", "Bearer", "Bearer ", ALICE_KEY, f"Basic {ALICE_KEY}", f"Bearer {ALICE_KEY}x", f"Bearer {ALICE_KEY[:-1]}",
     f"Bearer {ALICE.hash}", "Bearer swordfish", "Bearer \udcff\x00", "Bearer " + "x" * 100_000],
    ids=range(12),  # keys are made anew in each process
)  # fmt: skip
def test_who_brings_no_valid_key_is_no_client(given: str | None) -> None:
    guard = Guard(Keys([ALICE], 0.0), "swordfish")
    with pytest.raises(AuthenticationError) as e:
        guard.let_in("/v1/completions", given)
    assert ALICE_KEY not in e.value.message
    assert e.value.headers == {"WWW-Authenticate": "Bearer"}


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer  "])
def test_a_client_is_known_by_its_key(scheme: str) -> None:
    guard = Guard(Keys([ALICE, BOB], 0.0), None)
    for key, entry in ((ALICE_KEY, ALICE), (BOB_KEY, BOB)):
        client = guard.let_in("/v1/completions", scheme + key)
        assert client is not None
        assert client.name == entry.name


def test_pages_of_operators_want_the_secret() -> None:
    keys = Keys([ALICE], 0.0)
    assert Guard(keys, "swordfish").let_in("/metrics", "Bearer swordfish") is None
    for guard, given in ((Guard(keys, "swordfish"), f"Bearer {ALICE_KEY}"), (Guard(keys, None), "Bearer None"),
                         (Guard(keys, None), "Bearer "), (Guard(keys, "swordfish"), None)):  # fmt: skip
        with pytest.raises(AuthenticationError):
            guard.let_in("/metrics", given)
    assert Guard(keys, None).let_in("/health", None) is None


def test_a_browser_brings_the_secret_as_a_password() -> None:
    guard = Guard(Keys([ALICE], 0.0), "sword:fish")
    assert guard.let_in("/dashboard", "Basic " + base64.b64encode(b"me:sword:fish").decode()) is None
    for given in (b"me:swordfish", b"sword:fish", b"\xff:\xff"):
        with pytest.raises(AuthenticationError) as e:
            guard.let_in("/dashboard", "Basic " + base64.b64encode(given).decode())
        assert e.value.headers["WWW-Authenticate"].startswith("Basic ")
    for nothing in ("Basic", "Basic \udcff", "Basic !", "Digest bWU6c3dvcmQ6ZmlzaA=="):
        with pytest.raises(AuthenticationError):
            guard.let_in("/dashboard", nothing)


def test_a_client_has_so_many_in_flight_and_no_more() -> None:
    keys = Keys([limited(ALICE, max_in_flight=2)], 0.0)
    client = keys.find(f"Bearer {ALICE_KEY}")
    client.begin(0.0)
    client.begin(0.0)
    with pytest.raises(RateLimitError, match="2 requests in flight") as e:
        client.begin(0.0)
    assert e.value.headers == {"Retry-After": "1"}
    client.end()
    client.begin(0.0)


def test_a_client_asks_so_often_and_is_told_when_to_come_again() -> None:
    keys = Keys([limited(ALICE, requests_per_minute=2), BOB], 0.0)
    client = keys.find(f"Bearer {ALICE_KEY}")
    for _ in range(2):
        client.begin(0.0)
        client.end()
    with pytest.raises(RateLimitError) as e:
        client.begin(0.0)
    assert e.value.headers["Retry-After"] == "30"
    assert e.value.headers["x-ratelimit-remaining-requests"] == "0"
    assert e.value.headers["x-ratelimit-reset-requests"] == "1m0s"
    client.begin(30.1)
    keys.find(f"Bearer {BOB_KEY}").begin(0.0)


def test_other_keys_are_valid_from_now_on_and_what_was_taken_stays_so() -> None:
    keys = Keys([limited(ALICE, max_in_flight=1)], 0.0)
    old = keys.find(f"Bearer {ALICE_KEY}")
    old.begin(0.0)
    new_key, new = make_api_key("alice")
    keys.change([limited(new, max_in_flight=1), BOB], 0.0)
    with pytest.raises(AuthenticationError):
        keys.find(f"Bearer {ALICE_KEY}")
    with pytest.raises(RateLimitError):
        keys.find(f"Bearer {new_key}").begin(0.0)
    old.end()
    keys.find(f"Bearer {new_key}").begin(0.0)


def test_bearer() -> None:
    assert [bearer(h) for h in (None, "Bearer x", "BEARER x ", "Basic x", "x")] == ["", "x", "x", "", ""]
