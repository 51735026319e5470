"""The head of an answer."""

from __future__ import annotations

import pytest
from aiohttp import HttpVersion11

from trtdisagg.proxy.http.whole_answer import encode_head


def test_what_a_client_sent_goes_back_to_it_as_it_came() -> None:
    name = b"x-\xff".decode(errors="surrogateescape")
    head = encode_head(204, [("Access-Control-Allow-Headers", name)], "", HttpVersion11, keep_alive=True)
    assert b"\r\nAccess-Control-Allow-Headers: x-\xff\r\n" in head


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_a_header_is_one_line(end: str) -> None:
    with pytest.raises(ValueError, match="end of line"):
        encode_head(200, [("X", f"a{end}Y: b")], "", HttpVersion11, keep_alive=True)
