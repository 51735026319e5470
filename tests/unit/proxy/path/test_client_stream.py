"""Where a stream has come to its end."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import HttpVersion11, web

from trtdisagg.proxy.door.visit import Visit
from trtdisagg.proxy.path.client_stream import ClientStream


class Wire:
    """A client's side that takes everything."""

    version = HttpVersion11

    def __init__(self) -> None:
        self.sent = b""

    def is_closing(self) -> bool:
        return False

    def write(self, data: bytes) -> None:
        self.sent += data

    def get_write_buffer_size(self) -> int:
        return 0


def fed(*pieces: bytes) -> ClientStream:
    wire: Any = Wire()
    stream = ClientStream(wire, Visit(None))
    stream._transport = wire
    for piece in pieces:
        stream.feed(piece)
    return stream


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("size", [1, 2, 7, 15, 16, 17, 1000])
def test_however_the_end_mark_comes_it_is_the_end(end: bytes, size: int) -> None:
    stream = b"data: {}" + 2 * end + b"data: [DONE]" + 2 * end
    assert fed(*(stream[i : i + size] for i in range(0, len(stream), size))).is_complete
    cut = stream[: -len(2 * end) - 1]
    assert not fed(*(cut[i : i + size] for i in range(0, len(cut), size))).is_complete


@pytest.mark.anyio
async def test_an_answer_whose_client_has_left_before_it_is_not_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    async def gone(*_: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(web.StreamResponse, "prepare", gone)
    request: Any = Wire()
    request.transport = request
    stream = ClientStream(request, Visit(None))
    with pytest.raises(ConnectionResetError):
        await stream.begin(b"data: {}\n\ndata: [DONE]\n\n")
    assert not stream.is_complete
