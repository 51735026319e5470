"""From a ticket to a connected peer: TCP, the greeting, and the choice of a transport."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Executor

import msgspec

from trtdisagg.cache.layout import check_compatible
from trtdisagg.cache.peers import Peer
from trtdisagg.cache.streams import PeerStream, introduce
from trtdisagg.cache.transports import Link, Transport, name_of
from trtdisagg.cache.waiting import in_thread
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.handover import Ticket
from trtdisagg.protocol.peers import FromContext, Hello, Welcome

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 5.0
_DECODER = msgspec.msgpack.Decoder(FromContext)


class Connector:
    """Makes peers.

    :param me: our Hello; its proof is filled in later.
    :param transports: in order of preference.
    :param threads: where what blocks runs, here and later for the peers.
    """

    def __init__(
        self, me: Hello, transports: Sequence[Transport], threads: Executor, *, secret: bytes, keepalive_s: float
    ) -> None:
        self._me = me
        self._transports = transports
        self._threads = threads
        self._secret = secret
        self._keepalive_s = keepalive_s

    async def connect(self, ticket: Ticket) -> Peer:
        """Connect to the server that made a ticket.

        :raises HandoverError: when it cannot be reached, is not the one that made the ticket, has KV that does not fit
            ours, or none of the transports connects.
        """
        address = f"{ticket.host}:{ticket.port}"
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(ticket.host, ticket.port)
        except (OSError, TimeoutError) as e:
            raise HandoverError(f"{ticket.server} cannot be reached at {address}: {e or 'no answer'}") from e
        stream = PeerStream(reader, writer, _DECODER)
        try:
            return await self._greeted(stream, ticket)
        except HandoverError as e:
            stream.abort()
            raise HandoverError(f"{ticket.server} at {address}: {e.message}") from e
        except BaseException:
            stream.abort()
            raise

    async def _greeted(self, stream: PeerStream[FromContext], ticket: Ticket) -> Peer:
        welcome = await introduce(stream, self._me, self._secret)
        if welcome.incarnation != ticket.incarnation:
            raise HandoverError("it was started anew since it made the ticket")
        check_compatible(self._me.shape, welcome.shape)
        return Peer(stream, welcome, await self._link(welcome), self._threads, self._keepalive_s)

    async def _link(self, welcome: Welcome) -> Link:
        """The first of our transports that the peer has too and that connects."""
        reasons = []
        for transport in self._transports:
            name = name_of(transport.memory_type)
            memory = next((m for m in welcome.memory if isinstance(m, transport.memory_type)), None)
            if memory is None:
                reasons.append(f"not {name}: {welcome.server} does not have it")
                continue
            try:
                link = await in_thread(self._threads, transport.connect, memory)
            except HandoverError as e:
                reasons.append(f"not {name}: {e.message}")
                continue
            log.info("KV of %s (%s) comes by %s", welcome.server, welcome.incarnation, "; ".join([name, *reasons]))
            return link
        raise HandoverError(f"no transport connects: {'; '.join(reasons)}")
