"""From an address to a connected peer: TCP, the greeting, and the movers of all our ranks meeting its ranks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import msgspec

from trtdisagg.cache.announcements import Hearing
from trtdisagg.cache.greeting import connect, introduce
from trtdisagg.cache.mover import Mover
from trtdisagg.cache.peers import Peer, forgotten
from trtdisagg.cache.streams import PeerStream
from trtdisagg.cache.waiting import all_of, wait_out
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.peers import FromContext, HaveMet, Hello, Met, PeerRanks
from trtdisagg.protocol.spec import PeerAddress

_DECODER = msgspec.msgpack.Decoder(FromContext)


class Connector:
    """Makes peers.

    :param me: our Hello; its proof is filled in later.
    :param movers: of our ranks.
    :param hearing: told what peers announce.
    """

    def __init__(
        self, me: Hello, movers: Sequence[Mover], hearing: Hearing, *, secret: bytes, keepalive_s: float
    ) -> None:
        self._me = me
        self._movers = movers
        self._hearing = hearing
        self._secret = secret
        self._keepalive_s = keepalive_s

    async def connect(self, address: PeerAddress) -> Peer:
        """Connect to a server.

        :raises HandoverError: when it cannot be reached, is not the incarnation meant, has KV that does not fit ours,
            or one of our ranks reaches one of its by no transport.
        """
        return await connect(address.server, address.host, address.port, _DECODER, partial(self._greet, address))

    async def _greet(self, address: PeerAddress, stream: PeerStream[FromContext]) -> Peer:
        welcome = await introduce(stream, self._me, self._secret)
        if welcome.me.incarnation != address.incarnation:
            raise HandoverError("it was started anew since then")
        async with stream.kept_alive(self._keepalive_s):
            met = await self._meet(welcome.me)
        stream.send(HaveMet())
        return Peer(stream, welcome, self._movers, met, hearing=self._hearing, keepalive_s=self._keepalive_s)

    async def _meet(self, peer: PeerRanks) -> Sequence[Met]:
        try:
            return await all_of([mover.meet(peer) for mover in self._movers])
        except BaseException:
            await wait_out(asyncio.ensure_future(forgotten(self._movers, peer.incarnation)))
            raise
