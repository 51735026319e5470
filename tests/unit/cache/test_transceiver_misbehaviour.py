"""A context server that does not keep to the protocol: whoever meets it says so and goes on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import msgspec
import pytest
from helpers.kv import LAYOUT, connected, server

from trtdisagg.cache.movers.remote import RemoteMover
from trtdisagg.cache.streams import PeerLostError, PeerStream
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import Ticket
from trtdisagg.protocol.memory import RankMemory
from trtdisagg.protocol.movers import Answer, ToMover
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.peers import Challenge, Finish, Finished, FromGeneration, PeerRanks, Refused, Welcome
from trtdisagg.protocol.spec import PeerAddress

pytestmark = pytest.mark.anyio

DECODER = msgspec.msgpack.Decoder(FromGeneration)
Script = Callable[[PeerStream[FromGeneration]], Awaitable[None]]


@asynccontextmanager
async def impostor(script: Script) -> AsyncIterator[PeerAddress]:
    """A listener that follows a script on each connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = PeerStream(reader, writer, DECODER)
        with contextlib.suppress(PeerLostError):  # the other side has had enough
            await script(stream)
        stream.abort()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        yield PeerAddress(server="context-0", incarnation="context-0#1", host="127.0.0.1", port=port)


def welcome(*, num_ranks: int = 1, parallel: Parallel | None = None, incarnation: str = "context-0#1") -> Welcome:
    layout = msgspec.structs.replace(LAYOUT, parallel=parallel or Parallel())
    ranks = [RankMemory(host="", port=0, memory=[])] * num_ranks
    return Welcome(me=PeerRanks(server="context-0", incarnation=incarnation, layout=layout, ranks=ranks), lease_ms=1000)


def saying(*messages: msgspec.Struct) -> Script:
    async def script(stream: PeerStream[FromGeneration]) -> None:
        for message in messages:
            stream.send(message)
            await stream.receive(5)

    return script


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([welcome()], "sent Welcome before a challenge"),
        ([Challenge(nonce=b"x"), Finished(request_id=1, valid=True)], "sent Finished in place of a welcome"),
        ([Challenge(nonce=b"x"), Refused(reason="not you")], "refused: not you"),
        ([Challenge(nonce=b"x"), welcome(num_ranks=2)], "it has 1 ranks and tells where 2 are"),
        ([Challenge(nonce=b"x"), welcome(parallel=Parallel(tp_size=3), num_ranks=3)], "cannot be divided"),
        ([Challenge(nonce=b"x"), welcome(parallel=Parallel(tp_size=0), num_ranks=0)], "cannot be like this"),
        ([Challenge(nonce=b"x"), welcome(incarnation="context-0#2")], "started anew since then"),
        ([Challenge(nonce=b"x"), welcome()], "the peer does not have it"),
        ([], "the connection to the peer was lost"),
    ],
)
async def test_a_server_that_greets_wrongly_is_not_met(messages: list[msgspec.Struct], reason: str) -> None:
    async with impostor(saying(*messages)) as address, server("generation-0") as generation:
        linked = await generation.transceiver.meet(address)
        assert reason in (linked.error or "")


async def test_an_address_that_is_none_is_an_answer_and_ends_nothing() -> None:
    nowhere = PeerAddress(server="context-0", incarnation="context-0#1", host="127.0.0.1", port=99_999)
    async with server("context-1", seed=1) as context, server("generation-0") as generation:
        linked = await generation.transceiver.meet(nowhere)
        assert linked.error
        assert "context-0 was not met: OverflowError" in linked.error
        await (await generation.transceiver.claim(context.hold(1, [3]))).fetch([0])


async def test_a_server_that_says_what_has_no_place_loses_its_claims() -> None:
    """It greets as it should, in another server's name."""
    async with server("context-0") as honest, server("generation-0") as generation:

        async def script(stream: PeerStream[FromGeneration]) -> None:
            stream.send(Challenge(nonce=b"x"))
            await stream.receive(5)
            memory = await honest.movers[0].describe()
            me = PeerRanks(server="context-0", incarnation="context-0#1", layout=LAYOUT, ranks=[memory])
            stream.send(Welcome(me=me, lease_ms=30_000))
            while not isinstance(message := await stream.receive(5), Finish):
                pass
            stream.send(Finished(request_id=message.request_id + 1, valid=True))  # an answer to nobody
            stream.send(Challenge(nonce=b"again"))
            await stream.receive(5)

        async with impostor(script) as address:
            ticket = Ticket(
                server="context-0",
                incarnation="context-0#1",
                host=address.host,
                port=address.port,
                request_id=1,
                num_tokens=4,
                blocks=[3],
                lease_ms=30_000,
            )
            claim = await generation.transceiver.claim(ticket)
            with pytest.raises(HandoverError, match="sent Challenge, which has no place here"):
                await claim.fetch([0])


async def test_a_rank_that_answers_what_it_was_not_asked_is_lost() -> None:
    async with connected() as (here, there):
        remote = RemoteMover("rank 1", *here)
        PeerStream(*there, msgspec.msgpack.Decoder(ToMover)).send(Answer(call_id=7, result=msgspec.Raw(b"\xc0")))
        with pytest.raises(PeerLostError, match="rank 1: it answered what it was not asked: Answer"):
            await remote.run()
