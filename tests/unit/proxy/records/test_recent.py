"""The ring of the last requests."""

from __future__ import annotations

from helpers.records import record

from trtdisagg.proxy.records.recent import Recent


def test_the_newest_take_the_place_of_the_oldest() -> None:
    ring = Recent(3)
    for number in range(5):
        ring.add(record(request_id=str(number), ended=100.0 + number % 3))
    assert [r.request_id for r in ring.last(2)] == ["4", "3"]
    assert [r.request_id for r in ring.last(9)] == ["4", "3", "2"]
    assert [r.request_id for r in ring.slowest(2)] == ["2", "4"]
    assert ring.find("1") == []
    ring.add(record(request_id="4", status=200))
    assert [r.status for r in ring.find("4")] == [200, 429], "the newest first"
