"""A server's half that moves KV as a process of its own, of several ranks, which does what lines on stdin say.

    {"do": "hold", "request_id": 1, "blocks": [3]}                     {"ticket": ...}, later {"released": 1}
    {"do": "claim", "ticket": ...}                                     {"claimed": error | null}
    {"do": "fetch", "blocks": [0]}                                     {"fetched": error | null, "content": digest}
    {"do": "meet", "peer": ...}                                        {"met": Linked}
    {"do": "gone", "incarnation": ...}
    {"do": "hold_reads"}, {"do": "go_on"}                              {"reading": true} once a read has begun

What it claims is fetched by the next "fetch".
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import sys
import threading
from typing import Any

import msgspec
from helpers.kv import LAYOUT, Server, divided, server

from trtdisagg.cache.claims import Claim
from trtdisagg.cache.holds import Offer
from trtdisagg.cache.layout import Runs
from trtdisagg.cache.transports.local import LocalLink
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import Ticket
from trtdisagg.protocol.spec import PeerAddress

ONE = msgspec.structs.replace(LAYOUT, num_kv_heads=4)
TWO = divided(ONE, tp_size=2)
SEED = 11
LONG_S = 60


def digest(values: Any) -> str:
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def say(**what: Any) -> None:
    os.write(1, msgspec.json.encode(what) + b"\n")  # at once: copies of several ranks say that they have begun


class Gate:
    """Holds up the reads of this process, where the test wants it."""

    def __init__(self) -> None:
        self._may_go_on = threading.Event()
        self._may_go_on.set()
        read = LocalLink.read

        def held_up(link: LocalLink, runs: Runs) -> None:
            if not self._may_go_on.is_set():
                say(reading=True)
                assert self._may_go_on.wait(LONG_S)
            read(link, runs)

        LocalLink.read = held_up  # type: ignore[method-assign]

    def close(self) -> None:
        self._may_go_on.clear()

    def open(self) -> None:
        self._may_go_on.set()


class Obeying:
    """Commands to deeds."""

    def __init__(self, kv: Server, gate: Gate) -> None:
        self._kv = kv
        self._gate = gate
        self._claim: Claim | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def obey(self, command: dict[str, Any]) -> None:
        transceiver = self._kv.transceiver
        match command.pop("do"):
            case "hold":
                request_id, blocks = command.pop("request_id"), command.pop("blocks")
                num_tokens = len(blocks) * self._kv.layout.tokens_per_block
                ticket = transceiver.hold(
                    Offer(request_id, blocks, num_tokens, lambda: say(released=request_id), **command)
                )
                say(ticket=ticket)
            case "claim":
                await self._claimed(msgspec.convert(command["ticket"], Ticket))
            case "fetch":
                task = asyncio.create_task(self._fetch(command["blocks"]))  # beside: commands go on
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case "meet":
                say(met=await transceiver.meet(msgspec.convert(command["peer"], PeerAddress)))
            case "gone":
                transceiver.gone(command["incarnation"])
            case "hold_reads":
                self._gate.close()
            case "go_on":
                self._gate.open()

    async def _claimed(self, ticket: Ticket) -> None:
        try:
            self._claim = await self._kv.transceiver.claim(ticket)
        except HandoverError as e:
            say(claimed=e.message)
        else:
            say(claimed=None)

    async def _fetch(self, blocks: list[int]) -> None:
        claim, self._claim = self._claim, None
        assert claim is not None
        try:
            await claim.fetch(blocks)
        except HandoverError as e:
            say(fetched=e.message, content=None)
        else:
            say(fetched=None, content=digest(self._kv.read(blocks, claim.ticket.num_tokens)))


async def serve(args: argparse.Namespace) -> None:
    settings = msgspec.json.decode(args.settings)
    layout = TWO if args.two else ONE
    async with server(args.name, layout=layout, seed=SEED, incarnation=args.incarnation, **settings) as kv:
        say(address=kv.address)
        obeying = Obeying(kv, Gate())
        stdin = asyncio.StreamReader(limit=1 << 20)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
        while line := await stdin.readline():
            await obeying.obey(msgspec.json.decode(line))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("incarnation")
    parser.add_argument("settings", help="JSON: of the transceiver")
    parser.add_argument("--two", action="store_true", help="ranks")
    asyncio.run(serve(parser.parse_args()))


if __name__ == "__main__":
    main()
