"""A mover in another process of our server: calls as messages over the gang's connection, and the end that serves them.

    rank 0: RemoteMover  --- Call, Cancel, SetServing, Ping --->  another rank: serve_mover -> its mover
                         <---- Answer | Failure, Pong ----------

A call that has gone out is waited for until it is answered, also when nobody wants its result: only then it is known
that nothing is written into that rank's pool any more. The end of the connection answers all: a rank whose connection
is lost ends, and with it the server.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import msgspec

from trtdisagg.cache.mover import Mover
from trtdisagg.cache.streams import KEEPALIVE_S, PeerLostError, PeerStream
from trtdisagg.cache.waiting import wait_out
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.memory import RankMemory
from trtdisagg.protocol.movers import (
    Answer,
    Call,
    Cancel,
    Describe,
    Failure,
    FetchPart,
    ForgetPeer,
    FromMover,
    MeetRanks,
    SetServing,
    ToMover,
)
from trtdisagg.protocol.peers import Met, Moved, Part, PeerRanks, Ping, Pong

log = logging.getLogger(__name__)

SILENCE_S = 30.0
"""A rank that does not even answer a ping for so long hangs."""

_FROM_MOVER = msgspec.msgpack.Decoder(FromMover)
_TO_MOVER = msgspec.msgpack.Decoder(ToMover)
Result = TypeVar("Result")


class RemoteMover:
    """See `mover.Mover`. Whoever makes it calls `run`, which says when the rank is lost.

    :param name: of the rank, for people: `rank 2`.
    :param keepalive_s: between two pings.
    :param silence_s: without any answer for so long, the rank is lost.
    """

    def __init__(
        self,
        name: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        keepalive_s: float = KEEPALIVE_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._name = name
        self._stream = PeerStream(reader, writer, _FROM_MOVER)
        self._keepalive_s = keepalive_s
        self._silence_s = silence_s
        self._call_ids = itertools.count(1)
        self._calls: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._lost: str | None = None

    async def run(self) -> None:
        """Take in answers until the connection ends, which it does at the latest when we are cancelled.

        :raises PeerLostError: when the rank ended first, hangs, or says what has no place.
        """
        try:
            async with self._stream.kept_alive(self._keepalive_s):
                while True:
                    self._handle(await self._stream.receive(self._silence_s))
        except PeerLostError as e:
            self._lose(e.message)
            raise PeerLostError(f"{self._name}: {e.message}") from e
        finally:
            self._lose("the server ends")
            await wait_out(asyncio.ensure_future(self._stream.close()))

    async def describe(self) -> RankMemory:
        return await self._call(lambda i: Describe(call_id=i), RankMemory)

    async def meet(self, peer: PeerRanks) -> Met:
        return await self._call(lambda i: MeetRanks(call_id=i, peer=peer), Met)

    async def fetch(self, part: Part) -> Moved:
        return await self._call(lambda i: FetchPart(call_id=i, part=part), Moved)

    async def forget(self, incarnation: str) -> None:
        await self._call(lambda i: ForgetPeer(call_id=i, incarnation=incarnation), type(None))

    def set_serving(self, is_serving: bool) -> None:
        self._stream.send(SetServing(is_serving=is_serving))

    async def _call(self, make: Callable[[int], Call], result: type[Result]) -> Result:
        if self._lost is not None:
            raise HandoverError(self._lost)
        call_id = next(self._call_ids)
        answer: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._calls[call_id] = answer
        self._stream.send(make(call_id))
        try:
            await asyncio.wait([answer])
        except asyncio.CancelledError:
            self._stream.send(Cancel(call_id=call_id))
            await wait_out(answer)
            raise
        finally:
            del self._calls[call_id]
            error = answer.exception()
        if error is not None:
            raise error
        return msgspec.msgpack.decode(answer.result(), type=result)

    def _handle(self, message: FromMover) -> None:
        match message:
            case Answer(call_id=call_id, result=result) if call_id in self._calls:
                self._calls[call_id].set_result(result)
            case Failure(call_id=call_id, error=error) if call_id in self._calls:
                self._calls[call_id].set_exception(HandoverError(f"{self._name}: {error}"))
            case Pong():
                pass
            case _:
                raise PeerLostError(f"it answered what it was not asked: {type(message).__name__}")

    def _lose(self, reason: str) -> None:
        if self._lost is not None:
            return
        self._lost = f"{self._name}: {reason}"
        for answer in self._calls.values():
            if not answer.done():
                answer.set_exception(HandoverError(self._lost))


async def serve_mover(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mover: Mover) -> None:
    """Do what rank 0 asks of our mover, until it ends the connection; then nothing runs any more."""
    calls = _Calls(PeerStream(reader, writer, _TO_MOVER), mover)
    await calls.serve()


class _Calls:
    """What rank 0 has asked for and was not answered yet."""

    def __init__(self, stream: PeerStream[ToMover], mover: Mover) -> None:
        self._stream = stream
        self._mover = mover
        self._running: dict[int, asyncio.Task[object]] = {}

    async def serve(self) -> None:
        try:
            while True:
                self._handle(await self._stream.receive(None))
        except PeerLostError as e:
            log.info("rank 0 asks no more: %s", e.message)
        finally:
            for task in self._running.values():
                task.cancel()
            await wait_out(asyncio.gather(*self._running.values(), return_exceptions=True))
            await wait_out(asyncio.ensure_future(self._stream.close()))

    def _handle(self, message: ToMover) -> None:
        match message:
            case Cancel(call_id=call_id):
                if task := self._running.get(call_id):  # else it has ended, its answer is on the way
                    task.cancel()
            case SetServing(is_serving=is_serving):
                self._mover.set_serving(is_serving)
            case Ping():
                self._stream.send(Pong())
            case _:
                self._start(message)

    def _start(self, call: Call) -> None:
        task = self._running[call.call_id] = asyncio.create_task(self._work(call))
        task.add_done_callback(partial(self._answer, call.call_id))  # also of one that never began

    def _answer(self, call_id: int, task: asyncio.Task[object]) -> None:
        del self._running[call_id]
        if task.cancelled():
            self._stream.send(Failure(call_id=call_id, error="it was cancelled"))
        elif (error := task.exception()) is None:
            self._stream.send(Answer(call_id=call_id, result=msgspec.Raw(msgspec.msgpack.encode(task.result()))))
        elif isinstance(error, HandoverError):
            self._stream.send(Failure(call_id=call_id, error=error.message))
        else:
            log.error("a call of rank 0 failed", exc_info=error)
            self._stream.send(Failure(call_id=call_id, error=f"{type(error).__name__}: {error}"))

    async def _work(self, call: Call) -> object:
        match call:
            case Describe():
                return await self._mover.describe()
            case MeetRanks(peer=peer):
                return await self._mover.meet(peer)
            case FetchPart(part=part):
                return await self._mover.fetch(part)
            case ForgetPeer(incarnation=incarnation):
                await self._mover.forget(incarnation)
                return None
