"""The store inside the proxy, under a clock of the test's."""

from __future__ import annotations

import math

import pytest

from trtdisagg.registry.leases import MAX_KEY_BYTES, MAX_KEYS, MAX_VALUE_BYTES, Leases


def test_a_key_ends_unless_it_is_renewed() -> None:
    leases = Leases()
    assert leases.set("/a/1", "one", ttl_s=10, now=0)
    assert leases.set("/a/2", "two", ttl_s=10, now=0)
    assert leases.next_end == 10
    assert leases.expire("/a/1", ttl_s=10, now=9)
    assert leases.sweep(10)
    assert leases.under("/a/") == {"/a/1": "one"}
    assert not leases.sweep(18.9)
    assert leases.sweep(19)
    assert leases.get("/a/1") is None
    assert not leases.expire("/a/1", ttl_s=10, now=19)
    assert leases.next_end == math.inf


def test_what_is_there_is_overwritten_only_when_asked() -> None:
    leases = Leases()
    assert leases.set("k", "one", ttl_s=None, now=0)
    assert not leases.set("k", "two", ttl_s=1, now=0, overwrite=False)
    assert leases.get("k") == "one"
    assert leases.set("k", "two", ttl_s=1, now=0, overwrite=True)
    assert (leases.get("k"), leases.next_end) == ("two", 1)
    assert leases.delete("k")
    assert not leases.delete("k")


def test_after_a_time_in_which_nobody_could_renew_leases_begin_anew() -> None:
    leases = Leases()
    leases.set("k", "v", ttl_s=10, now=0)
    leases.set("for ever", "v", ttl_s=None, now=0)
    leases.expire("k", ttl_s=5, now=1)
    leases.begin_anew(30)
    assert not leases.sweep(34.9)
    assert leases.sweep(35)
    assert leases.get("for ever") == "v"


@pytest.mark.parametrize(("key", "value"), [("k" * (MAX_KEY_BYTES + 1), "v"), ("k", "v" * (MAX_VALUE_BYTES + 1))])
def test_what_is_too_large_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValueError, match="at most"):
        Leases().set(key, value, ttl_s=1, now=0)


def test_there_is_an_end_to_the_number_of_keys() -> None:
    leases = Leases()
    for i in range(MAX_KEYS):
        leases.set(str(i), "", ttl_s=1, now=0)
    with pytest.raises(ValueError, match="keys already"):
        leases.set("one more", "", ttl_s=1, now=0)
    assert leases.set("0", "again", ttl_s=1, now=0)
