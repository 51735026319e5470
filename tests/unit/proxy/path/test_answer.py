"""The first bytes of an answer: what counts as such."""

from __future__ import annotations

from typing import Any

import pytest

from trtdisagg.protocol.control import Member
from trtdisagg.proxy.path.answer import _Passage
from trtdisagg.proxy.path.failures import LegFailedError

pytestmark = pytest.mark.anyio


class Pieces:
    """A connection that brings these, and then nothing more."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [*pieces, b""]

    async def next_piece(self) -> bytes:
        return self._pieces.pop(0)


async def first_of(*pieces: bytes) -> bytes:
    member, nobody = Member(name="generation-0", role="generation", model="m", url="h:1"), None
    server, client, said = Pieces(*pieces), nobody, nobody
    passage: Any = _Passage(member, client, said)  # type: ignore[arg-type]
    events: bytes = await passage.first_events(server)
    return events


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
async def test_a_comment_is_no_answer_yet(end: bytes) -> None:
    ping, event = b": ping" + 2 * end, b"data: {}" + 2 * end
    assert await first_of(event) == event
    assert await first_of(event[:3], event[3:]) == event[:3]
    assert await first_of(ping, ping[:2], ping[2:], event) == 2 * ping + event
    with pytest.raises(LegFailedError, match="empty"):
        await first_of(ping, ping)
