"""A rank of a fake engine that follows rank 0: it beats, and ends when rank 0 has."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator

from trtdisagg.net import split_address
from trtdisagg.protocol.reports import Beat, Failed, Loading, Reporter
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.protocol.stats import Stats

BEAT_S = 0.5
_JOIN_TIMEOUT_S = 60.0


@contextlib.asynccontextmanager
async def followed(spec: EngineSpec) -> AsyncIterator[asyncio.Event]:
    """Rank 0: the others see it end by the end of their connections.

    Yields what is set when all the others are there.
    """
    all_there = asyncio.Event()
    if spec.parallel.num_ranks == 1:
        all_there.set()
        yield all_there
        return
    open_streams: list[asyncio.StreamWriter] = []

    def joined(_: asyncio.StreamReader, stream: asyncio.StreamWriter) -> None:
        open_streams.append(stream)
        if len(open_streams) == spec.parallel.num_ranks - 1:
            all_there.set()

    if spec.gang_fd is not None:
        server = await asyncio.start_server(joined, sock=socket.socket(fileno=spec.gang_fd))
    else:
        server = await asyncio.start_unix_server(joined, spec.gang_socket)
    try:
        yield all_there
    finally:
        server.close()
        for stream in open_streams:
            stream.close()


async def follow(spec: EngineSpec, flags: argparse.Namespace, reporter: Reporter) -> int:
    """Any other rank; a second SIGTERM ends it at once."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: None)
    reporter.send(Loading(stage="weights"))
    print(f"fake engine: rank {spec.rank} of {spec.name}", flush=True)
    if flags.fail_loading:
        print("fake engine: cannot load the shard", file=sys.stderr, flush=True)
        reporter.send(Failed(message="cannot load the shard"))
        os._exit(1)
    beats = asyncio.create_task(_beat(reporter))
    async with asyncio.timeout(_JOIN_TIMEOUT_S):
        stream, writer = await _join(spec)
    await stream.read()
    beats.cancel()
    writer.close()
    return 0


async def _join(spec: EngineSpec) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            if spec.gang_address is not None:
                return await asyncio.open_connection(*split_address(spec.gang_address))
            return await asyncio.open_unix_connection(spec.gang_socket)
        await asyncio.sleep(0.02)  # a socket that is not there yet cannot be waited for


async def _beat(reporter: Reporter) -> None:
    while True:
        reporter.send(Beat(stats=Stats()))
        await asyncio.sleep(BEAT_S)
