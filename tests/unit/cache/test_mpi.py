"""Of KV by MPI what can be seen from one process: who is served, and what MPICH is told when it starts."""

from __future__ import annotations

import contextlib
import socket
import sys
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
import torch
from helpers.kv import NUM_BLOCKS, SHAPE, fill
from helpers.layouts import transfer_runs
from helpers.mpi import needs_mpi

from trtdisagg.cache.greeting import prove
from trtdisagg.cache.movers.pieces import as_asked
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transports import mpi_library, open_transports
from trtdisagg.cache.transports.mpi_pmi import answer
from trtdisagg.cache.transports.mpi_serving import NONCE_BYTES
from trtdisagg.cache.transports.mpi_stream import Greeting, Meeting, Read, Stream
from trtdisagg.errors import HandoverError, StartupError
from trtdisagg.protocol.memory import MpiMemory


@pytest.fixture
def pool() -> Iterator[KvPool]:
    with KvPool(SHAPE, NUM_BLOCKS) as pool:
        fill(pool, 1)
        yield pool


@pytest.fixture
def memory(pool: KvPool) -> Iterator[MpiMemory]:
    with open_transports(["mpi"], pool, incarnation="a", one_host=True) as (transport,):
        memory = transport.describe()
        assert isinstance(memory, MpiMemory)
        yield memory
        with contextlib.closing(transport.connect(memory)) as link:  # whatever happened, others are served
            link.read(transfer_runs(SHAPE, [1], SHAPE, [2], 4))
        assert torch.equal(pool.tensor[1], pool.tensor[2])


@contextlib.contextmanager
def greeted(memory: MpiMemory, process: str) -> Iterator[Stream]:
    with contextlib.closing(Stream(socket.create_connection((memory.host, memory.port)))) as stream:
        stream.send(Greeting(prove(stream.receive_raw(NONCE_BYTES), memory.key), process))
        yield stream


def test_a_world_has_its_own_name() -> None:
    assert answer("cmd=get_my_kvsname", "w7") == "cmd=my_kvsname kvsname=w7"
    assert answer("cmd=init pmi_version=1 pmi_subversion=1", "w7").endswith("rc=0")
    assert "rc=-1" in answer("cmd=spawn nprocs=2", "w7")
    assert "rc=-1" in answer("", "w7")


@needs_mpi
def test_who_does_not_know_the_key_is_not_served(memory: MpiMemory) -> None:
    stranger = msgspec.structs.replace(memory, key=b"?" * 32)
    with greeted(stranger, mpi_library.load().process) as stream, pytest.raises(HandoverError, match="is gone"):
        stream.receive(Meeting)


@needs_mpi
@pytest.mark.parametrize(("outside", "why"), [([[0, -8, 64]], "outside"), ([[0, 0, 1 << 30]], "do not fit")])
def test_what_lies_outside_the_pool_is_not_sent(memory: MpiMemory, outside: list[list[int]], why: str) -> None:
    with greeted(memory, mpi_library.load().process) as stream:
        assert stream.receive(Meeting).port is None
        stream.send(Read(as_asked(np.array(outside, np.int64))))
        with pytest.raises(HandoverError, match=f"the peer cannot: .*{why}"):
            stream.receive(Meeting)


@needs_mpi
def test_who_does_not_come_to_meet_is_given_up(memory: MpiMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpi_library, "MEET_TIMEOUT_S", 1)
    with greeted(memory, "another") as stream:
        assert stream.receive(Meeting).port
        with pytest.raises(HandoverError, match="is gone"):
            stream.receive(Meeting)


def test_a_missing_mpi_is_named(pool: KvPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpi_library, "_loaded", [])
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with (
        pytest.raises(StartupError, match=r"transport mpi: .*pip install 'trtdisagg\[mpi\]', or choose backend NIXL"),
        open_transports(["mpi"], pool, incarnation="a", one_host=True),
    ):
        pass
