from __future__ import annotations

import anyio
import pytest

from trtdisagg.protocol.reports import Beat, Ready
from trtdisagg.protocol.stats import Stats
from trtdisagg.supervisor import journal as module
from trtdisagg.supervisor.events import Noticed, Reported, Told
from trtdisagg.supervisor.journal import Journal

pytestmark = pytest.mark.anyio


def note(text: str) -> Noticed:
    return Noticed(at=0.0, text=text)


async def test_a_listener_gets_past_and_future_in_order() -> None:
    journal = Journal()
    journal.add(note("past"))
    seen = []
    async with anyio.create_task_group() as tasks:

        async def listen() -> None:
            async for entry in journal.follow():
                seen.append(entry.text)
                if entry.text == "past":
                    tasks.start_soon(speak)

        async def speak() -> None:
            journal.add(note("present"))
            journal.add(note("future"))
            journal.close()

        tasks.start_soon(listen)
    assert seen == ["past", "present", "future"]
    assert [entry.text async for entry in journal.follow()] == seen, "a closed journal can still be read"


async def test_one_that_does_not_listen_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NUM_UNREAD", 2)
    journal = Journal()
    journal.add(note("first"))
    listener = journal.follow()
    assert (await anext(listener)).text == "first"
    for i in range(5):
        journal.add(note(str(i)))
    assert [entry.text async for entry in listener] == ["0", "1"]


def test_beats_are_not_kept_and_noise_is_not_told() -> None:
    journal = Journal()
    journal.add(Reported(at=0.0, name="context-0", incarnation="i", report=Beat(stats=Stats())))
    journal.add(Told(at=0.0, holder="p"))
    journal.add(Reported(at=0.0, name="context-0", incarnation="i", report=Ready(host="::1", port=7)))
    assert [line.split(" ", 1)[1] for line in journal.last_lines(5)] == ["context-0: ready on [::1]:7"]
