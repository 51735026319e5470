"""What a transport refuses to connect to, and what its reads may touch."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
import torch
from helpers.kv import NUM_BLOCKS, SHAPE, fill

from trtdisagg.cache.layout import transfer_runs
from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transports import Transport, local, open_transports
from trtdisagg.cache.transports.local import LocalTransport
from trtdisagg.errors import HandoverError, StartupError


@pytest.fixture
def pools() -> Iterator[tuple[KvPool, KvPool]]:
    with KvPool(SHAPE, NUM_BLOCKS) as ours, KvPool(SHAPE, NUM_BLOCKS) as theirs:
        fill(ours, 1)
        fill(theirs, 2)
        yield ours, theirs


@pytest.fixture(params=["local", "local without csrc", "nixl"])
def transports(
    request: pytest.FixtureRequest, pools: tuple[KvPool, KvPool], monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Transport]]:
    name, _, variant = request.param.partition(" ")
    if variant:
        monkeypatch.setattr(local, "extension", lambda: None)
    with (
        open_transports([name], pools[0], incarnation="a", one_host=True) as ours,
        open_transports([name], pools[1], incarnation="b", one_host=True) as theirs,
    ):
        yield [*ours, *theirs]


def test_a_link_reads_again_and_again(transports: list[Transport], pools: tuple[KvPool, KvPool]) -> None:
    ours, theirs = pools
    for first in (0, 10):  # and connects again after it was closed
        link = transports[0].connect(transports[1].describe())
        link.read(transfer_runs(SHAPE, [first, first + 2], SHAPE, [5, 4], 8))
        link.read(transfer_runs(SHAPE, [first + 1], SHAPE, [first], 3))
        link.read(transfer_runs(SHAPE, [], SHAPE, [], 0))
        link.abort()
        link.close()
        assert torch.equal(ours.tensor[[first, first + 2, first + 1]], theirs.tensor[[5, 4, first]])


def test_a_pool_can_be_read_into_itself(transports: list[Transport], pools: tuple[KvPool, KvPool]) -> None:
    link = transports[0].connect(transports[0].describe())
    link.read(transfer_runs(SHAPE, [1], SHAPE, [2], 4))
    link.close()
    assert torch.equal(pools[0].tensor[1], pools[0].tensor[2])


def test_a_read_outside_a_pool_copies_nothing(transports: list[Transport], pools: tuple[KvPool, KvPool]) -> None:
    before, size = pools[0].tensor.clone(), pools[0].num_bytes
    link = transports[0].connect(transports[1].describe())
    for outside in ([0, size - 4, 8], [size - 4, 0, 8], [-4, 0, 8], [0, -4, 8]):
        with pytest.raises(HandoverError, match="outside the pool"):
            link.read(np.array([[64, 0, 64], outside], np.int64))
    link.close()
    assert torch.equal(pools[0].tensor, before)


def test_what_is_not_the_pool_meant_is_refused(pools: tuple[KvPool, KvPool]) -> None:
    ours, theirs = map(LocalTransport, pools)
    memory = theirs.describe()
    with pytest.raises(HandoverError, match="is not the pool meant"):
        ours.connect(msgspec.structs.replace(memory, nonce=b"0" * len(memory.nonce)))
    with pytest.raises(HandoverError, match="cannot be mapped"):
        ours.connect(msgspec.structs.replace(memory, pid=2**22 + 1))
    with pytest.raises(HandoverError, match="cannot be mapped"):
        ours.connect(msgspec.structs.replace(memory, num_bytes=memory.num_bytes * 2))
    reading, writing = os.pipe()  # opening one end of a pipe with nobody at the other would wait
    os.close(writing)
    with pytest.raises(HandoverError, match="cannot be mapped"):
        ours.connect(msgspec.structs.replace(memory, fd=reading))
    os.close(reading)


def test_a_pool_that_is_gone_can_still_be_read_by_who_has_mapped_it(pools: tuple[KvPool, KvPool]) -> None:
    with KvPool(SHAPE, NUM_BLOCKS) as short_lived:
        content = fill(short_lived, 3)
        link = LocalTransport(pools[0]).connect(LocalTransport(short_lived).describe())
    link.read(transfer_runs(SHAPE, [1], SHAPE, [7], 4))
    link.close()
    assert torch.equal(pools[0].tensor[1], content[7])


def test_nixl_does_not_write_to_stdout_nor_change_logging(
    pools: tuple[KvPool, KvPool], capfd: pytest.CaptureFixture[str]
) -> None:
    with open_transports(["nixl"], pools[0], incarnation="c", one_host=True):
        assert logging.raiseExceptions
    assert capfd.readouterr().out == ""


def test_a_missing_nixl_is_named(pools: tuple[KvPool, KvPool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nixl", None)
    with (
        pytest.raises(StartupError, match=r"transport nixl: .*install the package nixl"),
        open_transports(["local", "nixl"], pools[0], incarnation="c", one_host=True),
    ):
        pass


def test_local_needs_host_memory(pools: tuple[KvPool, KvPool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools[0], "fd", None)
    with (
        pytest.raises(StartupError, match="transport local: needs the KV pool in host memory"),
        open_transports(["local"], pools[0], incarnation="c", one_host=True),
    ):
        pass
