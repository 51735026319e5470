"""How servers with fixed addresses are judged, and what their models need."""

from __future__ import annotations

import pytest

from trtdisagg.protocol.control import Member
from trtdisagg.protocol.proxy_spec import UpstreamServer
from trtdisagg.proxy.members.health import Judgement, Outcome, needs_of


@pytest.mark.parametrize(
    ("outcomes", "up"),
    [
        ([], False),
        (["well"], True),
        (["well", "refused"], False),
        (["well", "refused", "well"], True),
        (["well", "silent"], True),
        (["well", "silent", "silent"], False),
        (["well", "silent", "well", "silent"], True),
        (["silent"], False),
        (["refused", "silent", "well"], True),
    ],
)
def test_judgement(outcomes: list[Outcome], up: bool) -> None:
    judgement = Judgement()
    for outcome in outcomes:
        judgement = judgement.after(outcome)
    assert judgement.up is up


def test_what_models_need_follows_from_what_is_listed() -> None:
    def server(name: str, model: str | None) -> UpstreamServer:
        return UpstreamServer(name=name, role=name.partition("-")[0], model=model, url=name)  # type: ignore[arg-type]

    servers = [
        server("context-0", "a"),
        server("generation-0", "a"),
        server("both-0", "b"),
        server("generation-1", "c"),
    ]
    assert needs_of(servers, []) == {
        "a": ["context", "generation"],
        "b": ["context", "generation"],
        "c": ["generation"],
    }
    unnamed = [server("context-0", None), server("generation-0", None)]
    assert needs_of(unnamed, []) == {}
    found = [Member(name="context-0", role="context", model="x", url="context-0")]
    assert needs_of(unnamed, found) == {"x": ["context", "generation"]}
