"""One connection between two servers, on the event loop that servers run on."""

from __future__ import annotations

import asyncio
import socket
import struct

import msgspec
import pytest
import uvloop

from trtdisagg.cache.streams import PeerLostError, PeerStream
from trtdisagg.protocol.peers import FromGeneration, Ping, Pong

DECODER = msgspec.msgpack.Decoder(FromGeneration)


def test_what_is_sent_to_a_peer_that_is_gone_is_no_fault_of_ours() -> None:
    async def meet_and_lose() -> None:
        met: asyncio.Future[PeerStream[FromGeneration]] = asyncio.get_running_loop().create_future()
        async with await asyncio.start_server(
            lambda reader, writer: met.set_result(PeerStream(reader, writer, DECODER)), "127.0.0.1", 0
        ) as listener:
            with socket.create_connection(listener.sockets[0].getsockname()) as peer:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stream = await met
            with pytest.raises(PeerLostError, match="was lost"):  # the peer ended with a reset
                await stream.receive(5)
            stream.send(Ping())
            await stream.close()
            stream.send(Pong())

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(meet_and_lose())
