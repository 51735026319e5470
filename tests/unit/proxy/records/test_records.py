"""Where records begin and end."""

from __future__ import annotations

import pytest

from trtdisagg.proxy.records.record import Record
from trtdisagg.proxy.records.records import Records


def test_each_reader_sees_each_record_once_at_its_end() -> None:
    seen: list[tuple[int, Record, bool]] = []
    records = Records([lambda r: seen.append((0, r, r.ended > 0)), lambda r: seen.append((1, r, r.ended > 0))])
    first, second = (records.begin(name, "/v1/completions") for name in "ab")
    assert (records.num_begun, records.num_in_flight, seen) == (2, 2, [])
    records.add(second)
    assert (records.num_begun, records.num_in_flight) == (2, 1)
    records.add(first)
    assert seen == [(0, second, True), (1, second, True), (0, first, True), (1, first, True)]
    assert records.num_in_flight == 0
    with pytest.raises(KeyError):
        records.add(first)
