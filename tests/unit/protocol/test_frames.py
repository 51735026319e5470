"""Frames in pieces of any size."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtdisagg.protocol.frames import FrameReader, FrameTooLargeError, frame


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_messages_come_out_as_they_went_in(messages: list[bytes], data: st.DataObject) -> None:
    stream, reader, got = b"".join(map(frame, messages)), FrameReader(300), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        got += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert got == messages


def test_another_kind_of_stream_is_seen_at_once() -> None:
    with pytest.raises(FrameTooLargeError, match="at most 300"):
        FrameReader(300).feed(b"HTTP/1.1")
