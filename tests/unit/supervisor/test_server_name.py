"""Names of servers: whose model, which role, which number."""

from __future__ import annotations

import pytest

from trtdisagg.supervisor.server_name import ServerName, parse_name


@pytest.mark.parametrize(
    ("name", "parsed", "group"),
    [
        ("context-0", ServerName("", "context", 0), "context"),
        ("generation-12", ServerName("", "generation", 12), "generation"),
        ("qwen-2.5.both-3", ServerName("qwen-2.5", "both", 3), "qwen-2.5.both"),
        ("proxy", ServerName("", "proxy", 0), "proxy"),
    ],
)
def test_what_a_name_says(name: str, parsed: ServerName, group: str) -> None:
    assert parse_name(name) == parsed
    assert parsed.group == group
