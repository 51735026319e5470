"""What browsers are told, by the fetch standard."""

from __future__ import annotations

import pytest

from trtdisagg.proxy.door.cors import Cors

HERE = "https://here.example.org"


@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        ([HERE], HERE, HERE),
        ([HERE], "https://elsewhere.example.org", None),
        ([HERE], "https://here.example.org.evil.com", None),
        ([HERE], "null", None),
        ([HERE], None, None),
        (["*"], "https://elsewhere.example.org", "*"),
        (["*"], None, "*"),
    ],
)
def test_an_origin_is_allowed_that_stands_there(origins: list[str], origin: str | None, allowed: str | None) -> None:
    cors = Cors(origins)
    headers = cors.headers(origin)
    assert headers.get("Access-Control-Allow-Origin") == allowed
    assert ("Vary" in headers) == (origins != ["*"])
    assert "Access-Control-Allow-Credentials" not in headers
    preflight = cors.preflight(origin, ["POST", "OPTIONS"], "authorization, x-stainless-os")
    if allowed is None:
        assert preflight == {}
    else:
        assert preflight["Access-Control-Allow-Methods"] == "POST, OPTIONS"
        assert preflight["Access-Control-Allow-Headers"] == "authorization, x-stainless-os"
