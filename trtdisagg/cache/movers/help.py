"""A rank that holds KV, as a rank that fetches asks it for help: to pack, or to pack and write (`protocol.helping`).

An answer may come or not; whether a push can still write into our staging buffer is another question, and has another
future: it is settled by the answer, or by the end of the connection, which the holder does not end before it writes no
more, and which ends with its process. A holder that is silent, or whose connection was lost in the network, may still
write, however long it takes.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, NamedTuple, Self

import msgspec

from trtdisagg.cache.greeting import connect, present
from trtdisagg.cache.streams import KEEPALIVE_S, PeerLostError, PeerStream
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.helping import (
    Done,
    Freed,
    FromHolder,
    Measured,
    Pack,
    Packed,
    Push,
    Pushed,
    RankHello,
    RankWelcome,
    Unable,
)
from trtdisagg.protocol.memory import RankMemory

_DECODER = msgspec.msgpack.Decoder(FromHolder)


class Pushing(NamedTuple):
    """A piece that was asked to be pushed."""

    answer: asyncio.Future[None]
    """HandoverError: it did not come."""
    written: asyncio.Future[None]
    """Done when nothing of it is written any more."""


class Help:
    """One connection. Whoever opens it lets `run` run, and calls `close`."""

    def __init__(self, stream: PeerStream[FromHolder], slot_bytes: int) -> None:
        self.slot_bytes = slot_bytes
        """The largest piece that it packs."""
        self._stream = stream
        self._ids = itertools.count(1)
        self._packs: dict[int, asyncio.Future[int]] = {}
        self._frees: dict[int, asyncio.Future[None]] = {}
        self._pushes: dict[int, Pushing] = {}
        self._lost: str | None = None
        self._is_closing = False

    @classmethod
    async def open(cls, memory: RankMemory, hello: RankHello, secret: bytes) -> Self:
        """Connect and greet.

        :raises HandoverError: when it cannot be reached, or refuses us.
        """

        async def greet(stream: PeerStream[FromHolder]) -> Self:
            welcome = await present(stream, hello, RankWelcome, secret)
            return cls(stream, welcome.slot_bytes)

        return await connect("its mover", memory.host, memory.port, _DECODER, greet)

    async def run(self) -> None:
        """Take in answers until the connection ends, or nobody waits for any after `close`."""
        try:
            async with self._stream.kept_alive(KEEPALIVE_S):
                while not (self._is_closing and not self._pushes):
                    self._handle(await self._stream.receive(None))
        except PeerLostError as e:
            self._lose(e.message, is_over=e.has_ended)
        finally:
            self._lose("the link was closed", is_over=False)
            self._stream.abort()

    def measured(self) -> None:
        """Say that nothing is read until it holds something for us."""
        self._stream.send(Measured())

    def pack(self, asked: bytes) -> tuple[int, asyncio.Future[int]]:
        """Ask for a piece, until `done`.

        :return: its number, and where it lies when it is packed.
        """
        piece = next(self._ids)
        packed = self._packs[piece] = self._future()
        if self._lost is None:
            self._stream.send(Pack(piece=piece, runs=asked))
        return piece, packed

    def done(self, piece: int) -> asyncio.Future[None]:
        """Give a piece back, read or not.

        :return: done when it has kept the piece until now, so that what was read is whole.
        """
        self._packs.pop(piece, None)
        freed = self._frees[piece] = self._future()
        if self._lost is None:
            self._stream.send(Done(piece=piece))
        return freed

    def push(self, asked: bytes, to_offset: int) -> Pushing:
        """Ask for a piece to be written into our staging buffer."""
        piece = next(self._ids)
        pushing = Pushing(self._future(), asyncio.get_running_loop().create_future())
        if self._lost is None:
            self._pushes[piece] = pushing
            self._stream.send(Push(piece=piece, runs=asked, to_offset=to_offset))
        else:
            pushing.written.set_result(None)  # it was never asked
        return pushing

    def abort(self) -> None:
        """Nobody waits for answers any more. Returns at once."""
        self._fail("the link was aborted")

    def close(self) -> None:
        """End the connection as soon as nothing is written for it any more."""
        self._is_closing = True
        self._fail("the link was closed")
        if not self._pushes:
            self._stream.abort()

    def _future(self) -> asyncio.Future[Any]:
        """For an answer; failed when there will be none."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_seen)
        if self._lost is not None:
            answer.set_exception(HandoverError(self._lost))
        return answer

    def _handle(self, message: FromHolder) -> None:
        match message:
            case Packed(piece=piece, offset=offset):
                _settle(self._packs.pop(piece, None), offset)
            case Freed(piece=piece):
                _settle(self._frees.pop(piece, None), None)
            case Pushed(piece=piece) if pushing := self._pushes.pop(piece, None):
                _settle(pushing.answer, None)
                pushing.written.set_result(None)
            case Unable(piece=piece, error=error):
                self._fail_piece(piece, HandoverError(error))
            case _:
                raise PeerLostError(f"the peer sent {type(message).__name__}, which has no place here")

    def _fail_piece(self, piece: int, error: HandoverError) -> None:
        if pushing := self._pushes.pop(piece, None):
            _fail(pushing.answer, error)
            pushing.written.set_result(None)
        _fail(self._packs.pop(piece, None), error)

    def _lose(self, reason: str, *, is_over: bool) -> None:
        if self._lost is None:
            self._lost = reason
        self._fail(reason)
        if is_over:
            for pushing in self._pushes.values():
                pushing.written.set_result(None)
            self._pushes.clear()

    def _fail(self, reason: str) -> None:
        self._lost = self._lost or reason
        pushed = (pushing.answer for pushing in self._pushes.values())
        answers: list[asyncio.Future[Any]] = [*self._packs.values(), *self._frees.values(), *pushed]
        for answer in answers:
            _fail(answer, HandoverError(reason))
        self._packs.clear()
        self._frees.clear()


def _settle(answer: asyncio.Future[Any] | None, result: object) -> None:
    if answer is not None and not answer.done():
        answer.set_result(result)


def _fail(answer: asyncio.Future[Any] | None, error: HandoverError) -> None:
    if answer is not None and not answer.done():
        answer.set_exception(error)


def _seen(answer: asyncio.Future[Any]) -> None:
    """Its error was looked at, also when nobody waits any more."""
    if not answer.cancelled():
        answer.exception()
