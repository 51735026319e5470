"""Bodies become times and counts, however they are cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdisagg.bench.serve.outcome import Outcome
from trtdisagg.bench.serve.reception import NotAnAnswerError, Streamed, Whole, message_of


def outcome() -> Outcome:
    return Outcome(index=0, max_tokens=8)


def data(*values: Any, line_end: str = "\n") -> bytes:
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    return "".join(f"data: {text}{line_end}{line_end}" for text in texts).encode()


def said(text: str, finish_reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"text": text, "finish_reason": finish_reason}], **more}


def used(num_tokens: int) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": 5, "completion_tokens": num_tokens, "total_tokens": 5 + num_tokens}}


def received(*pieces: bytes) -> tuple[Outcome, str]:
    """Piece i comes at time i."""
    found = outcome()
    stream = Streamed(found, keeps_text=True)
    for at, piece in enumerate(pieces):
        stream.take(piece, float(at))
    return found, stream.end(float(len(pieces)))


def test_each_chunk_with_text_is_a_token_and_has_its_time() -> None:
    found, text = received(
        data(said("")), data(said("a")), data(said("b"), said("c")), data(said("", "length")), data("[DONE]")
    )
    assert text == "abc"
    assert list(found.heard_at) == [1.0, 2.0, 2.0]
    assert (found.ended_at, found.num_tokens, found.num_output_tokens, found.num_guessed) == (2.0, 3, None, 3)


def test_chats_reasoning_and_calls_of_tools() -> None:
    deltas = [{"role": "assistant"}, {"content": "a"}, {"reasoning_content": "b"}, {"tool_calls": [{"index": 0}]}]
    found, text = received(data(*({"choices": [{"delta": delta}]} for delta in deltas), "[DONE]"))
    assert (text, found.num_tokens) == ("a", 3)


def test_usage_of_each_chunk_counts_its_tokens() -> None:
    found, _ = received(
        data(said("a", **used(1))),
        data(said("", **used(2))),  # a token without text, as half of a character
        data(said("bcd", **used(5))),
        data(said("", "length", **used(5))),
        data({"choices": [], **used(5)}, "[DONE]"),
    )
    assert list(found.heard_at) == [0.0, 1.0, 2.0]
    assert list(found.num_by) == [1, 2, 5]
    assert (found.num_guessed, found.num_input_tokens, found.num_output_tokens) == (0, 5, 5)


@pytest.mark.parametrize(
    "last",
    [data({"choices": [], **used(6)}), data(said("", "stop", **used(6)))],
    ids=["in a chunk of its own", "in the last chunk"],
)
def test_usage_at_the_end_says_how_many_there_were_and_is_no_token(last: bytes) -> None:
    found, _ = received(data(said("ab")), data(said("cd", "stop")), last)
    assert list(found.heard_at) == [0.0, 1.0]
    assert (found.num_tokens, found.num_guessed) == (6, 2)


def test_who_says_0_until_the_end_is_not_believed() -> None:
    found, _ = received(
        data(said("a", **used(0))), data(said("b", **used(0))), data(said("", "stop"), used(7), "[DONE]")
    )
    assert (found.heard_at.tolist(), found.num_tokens, found.num_guessed) == ([0, 1], 7, 2)


def test_choices_may_be_null() -> None:
    """As some servers have it in the chunk that tells the usage."""
    found, _ = received(data(said("a")), data({"choices": None, **used(1)}), data("[DONE]"))
    assert (found.num_tokens, found.num_input_tokens) == (1, 5)


def test_an_answer_of_one_token_without_text() -> None:
    found, _ = received(data(said("", "stop", **used(1))), data("[DONE]"))
    assert (list(found.heard_at), found.num_tokens) == ([0.0], 1)


STREAM = data(said("a", **used(1))) + b": a comment\n\nevent: x\n" + data(said("é\n", "stop", **used(3)), "[DONE]")


@given(st.lists(st.integers(0, len(STREAM)), max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_a_stream_may_be_cut_anywhere(cuts: list[int], line_end: str) -> None:
    stream = STREAM.replace(b"\n", line_end.encode())
    borders = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    found, text = received(*(stream[a:b] for a, b in pairwise(borders)))
    assert (text, list(found.num_by)) == ("aé\n", [1, 3])
    assert list(found.heard_at) == sorted(found.heard_at)


@pytest.mark.parametrize(
    ("pieces", "kind", "words"),
    [
        ([data(said("a"))], "cut off", "without"),
        ([data("[DONE]")], "empty answer", "without a token"),
        ([b"data: {oops\n\n"], "not an answer", "{oops"),
        ([data('{"choices": 7}')], "not an answer", "got `int`"),
        ([data({"error": {"message": "out of blocks", "code": "x"}})], "error event", "out of blocks"),
        ([b"<html>\n", b"</html>"], "not an answer", "has no events"),
    ],
)
def test_what_is_no_answer(pieces: list[bytes], kind: str, words: str) -> None:
    with pytest.raises(NotAnAnswerError, match=words) as caught:
        received(*pieces)
    assert caught.value.kind == kind


def test_a_client_leaves_with_its_token() -> None:
    found = outcome()
    stream = Streamed(found, leave_after=3)
    for number in (1, 2):
        stream.take(data(said("a", **used(number))), 1.0)
        assert not stream.has_left
    stream.take(data(said("a", **used(4))), 2.0)
    assert stream.has_left


def test_a_whole_answer() -> None:
    found = outcome()
    whole = Whole(found)
    body = json.dumps({"choices": [{"message": {"content": "ab"}}], **used(2)}).encode()
    for piece in (body[:10], body[10:]):
        whole.take(piece, 1.0)
    assert whole.end(7.0) == "ab"
    assert (found.ended_at, found.num_tokens, found.num_input_tokens, len(found.heard_at)) == (7.0, 2, 5, 0)


@pytest.mark.parametrize("body", [b"nonsense", b'{"choices": []}', b'{"error": {"message": "no"}}'])
def test_a_whole_answer_that_is_none(body: bytes) -> None:
    whole = Whole(outcome())
    whole.take(body, 1.0)
    with pytest.raises(NotAnAnswerError):
        whole.end(1.0)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": {"message": "too  long"}}', "too long"),
        (b'{"error": "no"}', "no"),
        (b'{"message": "m", "object": "error"}', "m"),
        (b'{"detail": "d"}', "d"),
        (b"<h1>Bad\nGateway</h1>", "<h1>Bad Gateway</h1>"),
        (b"", ""),
        (b'{"a": 1}', '{"a": 1}'),
    ],
)
def test_what_an_error_says(body: bytes, words: str) -> None:
    assert message_of(body) == words
