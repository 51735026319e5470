"""What a client has of a stream: whole events alone, and the tokens that they say."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from trtdisagg.proxy.path.said import DONE, FOLD_BYTES, MAX_EVENT_BYTES, Said, WholeEvents, fold_bytes


def event(num_chars: int, token_ids: list[int], text: str = "x", finish: str | None = None, **fields: Any) -> bytes:
    chunk = {"choices": [{"text": text, "finish_reason": finish}], **fields, "seam": [num_chars, token_ids]}
    return b"data: %b\n\n" % json.dumps(chunk, separators=(",", ":")).encode()


ERROR = b'{"error":{"message":"gone","type":"unavailable_error"}}'


def test_whatever_the_pieces_only_whole_events_come_out() -> None:
    rng = random.Random(1)
    events = b"".join(event(i, [i], 'data: {"error":\n\n') for i in range(50))
    for _ in range(100):
        cuts = sorted(rng.sample(range(len(events)), 20))
        whole, out = WholeEvents(), b""
        for start, stop in zip([0, *cuts], [*cuts, len(events)], strict=True):
            said = whole.feed(events[start:stop])
            assert not said or said.endswith(b"\n\n")
            out += said
        assert out == events
        assert whole.error is None


def test_half_an_event_is_kept_back() -> None:
    whole, first, second = WholeEvents(), event(1, [1]), event(2, [2])
    assert whole.feed(first + second[:10]) == first
    assert whole.feed(second[10:-1]) == b""
    assert whole.feed(second[-1:]) == second


def test_an_event_that_ends_like_a_part_but_begins_elsewhere_is_put_together() -> None:
    whole, said = WholeEvents(), event(1, [1])
    assert whole.feed(said[:-5]) == b""
    assert whole.feed(said[-5:] + event(2, [2])) == said + event(2, [2])


@pytest.mark.parametrize("cut", [0, 5, 20, 50])
def test_an_error_does_not_come_out(cut: int) -> None:
    whole, stream = WholeEvents(), event(1, [1]) + b"data: %b\n\n" % ERROR
    at = len(stream) - cut
    assert whole.feed(stream[:at]) + (whole.feed(stream[at:]) if cut else b"") == event(1, [1])
    assert whole.error == ERROR


def test_an_event_without_end_is_an_error() -> None:
    whole = WholeEvents()
    assert whole.feed(b"data: ") == b""
    assert whole.feed(b"x" * MAX_EVENT_BYTES) == b""
    assert whole.error is not None


def test_said_knows_all_tokens_however_long_the_stream_is() -> None:
    said, num = Said(), FOLD_BYTES.stop // 10
    for i in range(num):
        said.add(event(2 * i, [3 * i, 3 * i + 1]))
    assert said.token_ids() == [t for i in range(num) for t in (3 * i, 3 * i + 1)]
    assert said.num_chars_sent == 2 * (num - 1)
    said.add(event(2 * num, [7], finish="stop"))
    assert said.token_ids()[-1] == 7
    assert (said.is_finished, said.has_usage, said.is_readable) == (True, False, True)


@pytest.mark.parametrize("num", [0, 1, 7, 1000])
def test_what_was_sent_as_chunks_is_read_as_well(num: int) -> None:
    rng, said = random.Random(num), Said()
    for i in range(num):
        events = event(2 * i, [2 * i], 'a"]]}\\n\\ndata: ') + event(2 * i + 1, [2 * i + 1])
        said.add(rng.choice((events, b"%x\r\n%b\r\n" % (len(events), events))))
    assert said.num_events == 2 * num
    assert said.token_ids() == list(range(2 * num))
    assert said.num_events == 2 * num


def test_what_is_kept_shrinks_with_the_number_of_streams() -> None:
    assert fold_bytes(0) == fold_bytes(1) == FOLD_BYTES.stop
    assert FOLD_BYTES.start < fold_bytes(1000) < FOLD_BYTES.stop
    assert fold_bytes(10**6) == FOLD_BYTES.start


def test_said_keeps_few_bytes_a_token() -> None:
    said = Said(lambda: 10**6)
    for i in range(100_000):
        said.add(event(i, [i]))
        assert len(said._events) < FOLD_BYTES.start + 100
    assert said._token_ids.itemsize == 4


def test_said_knows_how_much_of_the_end_there_is() -> None:
    said = Said()
    said.add(
        event(1, [1], finish="length") + event(1, [], usage={}).replace(b'[{"text":"x","finish_reason":null}]', b"[]")
    )
    assert said.token_ids() == [1]
    assert (said.is_finished, said.has_usage) == (True, True)


@pytest.mark.parametrize("events", [b'data: {"choices":[]}\n\n', b"data: not json\n\n", DONE])
def test_events_that_do_not_say_how_to_go_on_are_noticed(events: bytes) -> None:
    said = Said()
    said.add(event(1, [1]) + events)
    said.token_ids()
    assert not said.is_readable
