"""Asking the other processes of a proxy: those that answer are heard, the others are not waited for."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from aiohttp import web

from trtdisagg.proxy.members.members_door import open_members_door
from trtdisagg.proxy.workers.fellows import Fellows

pytestmark = pytest.mark.anyio


async def test_answers_come_by_socket_and_silence_is_counted(short_path: Path) -> None:
    async def said(_: web.BaseRequest) -> web.Response:
        return web.Response(body=b"x" * 100_000)

    answers, refuses, mute, gone = (str(short_path / f"{name}.sock") for name in ("a", "r", "m", "g"))
    fellows = Fellows("me")
    fellows.take([answers, "me", refuses, mute, gone])
    with socket.socket(socket.AF_UNIX) as nobody_accepts:
        nobody_accepts.bind(mute)
        nobody_accepts.listen()
        async with open_members_door(answers, {("GET", "/p"): said}), open_members_door(refuses, {}):
            told = await fellows.ask_all("GET", "/p", timeout_s=3.0)
    assert told == {answers: b"x" * 100_000, refuses: None, mute: None, gone: None}
    assert fellows.num_silent == 3
