"""The answer parser: any answer, split anywhere, gives the same body; anything else is refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdisagg.protocol.http1 import MAX_HEAD_BYTES, MAX_LINE_BYTES, BadAnswerError, Head, ResponseParser

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def feed_all(pieces: list[bytes], *, eof: bool = False) -> tuple[bytes, ResponseParser]:
    parser = ResponseParser()
    body = b"".join([parser.feed(p) for p in pieces])
    if eof:
        parser.feed_eof()
    return body, parser


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


def frame(chunks: list[bytes], extension: bytes = b"", trailers: bytes = b"") -> bytes:
    sizes = [b"%x%b\r\n%b\r\n" % (len(c), extension, c) for c in chunks]
    return CHUNKED + b"".join(sizes) + b"0\r\n" + trailers + b"\r\n"


cuts = st.lists(st.integers(0, 5000), max_size=20)


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), cuts, st.sampled_from([b"", b";a=b", b" ; x"]))
def test_chunks_come_out_whole_wherever_they_are_split(chunks: list[bytes], cuts: list[int], extension: bytes) -> None:
    data = frame(chunks, extension, b"X-Trailer: 1\r\n")
    body, parser = feed_all(split(data, cuts))
    assert body == b"".join(chunks)
    assert parser.complete
    assert parser.keep_alive


@given(
    st.lists(st.sampled_from([b"a", b"!", b"long!", b"\r\n!"]), max_size=8), cuts, st.sampled_from([b"", b";a=b", b" "])
)
def test_chunks_that_are_passed_on_are_whole_and_end_as_they_must(
    chunks: list[bytes], cuts: list[int], extension: bytes
) -> None:
    parser, body = ResponseParser(), b""
    for piece in split(frame(chunks, extension), cuts):
        if parser.is_whole_chunks(piece, b"!\r\n"):
            passed, _ = feed_all([CHUNKED, piece])
            assert passed.endswith(b"!")
            assert extension == b""
            body += passed
        else:
            body += parser.feed(piece)
    assert body == b"".join(chunks)
    assert parser.complete


@pytest.mark.parametrize(
    ("data", "is_whole"),
    [
        (b"2\r\na!\r\n", True),
        (b"02\r\na!\r\n1\r\n!\r\n", True),
        (b"2\r\naa\r\n2\r\na!\r\n", False),
        (b"2\r\na!\r\n3\r\na!\r\n", False),
        (b"2\r\na!\r\n0\r\n\r\n", False),
        (b"3\r\na!\r\n", False),
        (b"!\r\n", False),
        (b"", False),
    ],
)
def test_what_is_whole_chunks(data: bytes, is_whole: bool) -> None:
    parser = ResponseParser()
    assert not parser.is_whole_chunks(data, b"!\r\n")
    parser.feed(CHUNKED)
    assert parser.is_whole_chunks(data, b"!\r\n") is is_whole


@given(st.binary(max_size=200), cuts)
def test_a_sized_body_comes_out_whole_wherever_it_is_split(expected: bytes, cuts: list[int]) -> None:
    data = OK + b"Content-Length: %d\r\nX-A: b\r\n\r\n" % len(expected) + expected
    body, parser = feed_all(split(data, cuts))
    assert body == expected
    assert parser.head == Head(200, {"content-length": str(len(expected)), "x-a": "b"})
    assert parser.complete
    assert parser.keep_alive


@given(st.binary(max_size=200), cuts)
def test_without_a_length_the_body_ends_with_the_connection(expected: bytes, cuts: list[int]) -> None:
    body, parser = feed_all(split(OK + b"\r\n" + expected, cuts), eof=True)
    assert body == expected
    assert parser.complete
    assert not parser.keep_alive


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    parser = ResponseParser()
    try:
        parser.feed(data)
        parser.feed(CHUNKED)
    except BadAnswerError:
        pass


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n", False),
    ],
)
def test_when_a_connection_may_be_used_again(head: bytes, keep_alive: bool) -> None:
    chunked = b"chunked" in head
    body, parser = feed_all([head + b"Content-Length: 2\r\n\r\n" + (b"2\r\nok\r\n0\r\n\r\n" if chunked else b"ok")])
    assert body == b"ok"
    assert parser.complete
    assert parser.keep_alive is keep_alive


@pytest.mark.parametrize("status", [204, 304])
def test_an_answer_without_a_body_is_complete_with_its_head(status: int) -> None:
    _, parser = feed_all([b"HTTP/1.1 %d x\r\nContent-Length: 10\r\n\r\n" % status])
    assert parser.complete


def test_interim_answers_are_passed_over() -> None:
    body, parser = feed_all([b"HTTP/1.1 100 Continue\r\n\r\n" * 2000 + OK + b"Content-Length: 2\r\n\r\nok"])
    assert body == b"ok"
    assert parser.head is not None
    assert parser.head.status == 200


def test_bytes_behind_the_answer_spoil_the_connection() -> None:
    body, parser = feed_all([frame([b"ok"]) + b"HTTP/1.1 200 OK\r\n"])
    assert body == b"ok"
    assert parser.complete
    assert not parser.keep_alive


def test_values_of_a_repeated_header_are_joined() -> None:
    _, parser = feed_all([OK + b"X-A: 1\r\nx-a: 2\r\nContent-Length: 0\r\ncontent-length: 0\r\n\r\n"])
    assert parser.head == Head(200, {"x-a": "1, 2", "content-length": "0"})


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        OK + b"no colon\r\n\r\n",
        OK + b"X-A : b\r\n\r\n",
        OK + b"X-A: b\r\n folded\r\n\r\n",
        OK + b"Content-Length: +5\r\n\r\n",
        OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n",
        CHUNKED + b"xyz\r\n",
        CHUNKED + b"-1\r\n",
        CHUNKED + b"0x5\r\n",
        CHUNKED + b"123456789\r\n",
        CHUNKED + b"2\r\nabc\r\n",
        CHUNKED + b"1" * (MAX_LINE_BYTES + 1),
        CHUNKED + b"0\r\n" + b"A: b\r\n" * 3000,
        OK + b"X-A: " + b"a" * MAX_HEAD_BYTES,
        OK + b"X-A: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n",
    ],
)
def test_what_is_not_an_answer_is_refused(data: bytes) -> None:
    with pytest.raises(BadAnswerError):
        feed_all([data])


@pytest.mark.parametrize("data", [b"", OK, CHUNKED + b"5\r\nab", OK + b"Content-Length: 5\r\n\r\nab"])
def test_an_answer_that_breaks_off_is_refused(data: bytes) -> None:
    with pytest.raises(BadAnswerError, match="before the end"):
        feed_all([data], eof=True)
