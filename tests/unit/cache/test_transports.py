"""What a transport refuses to connect to, and what its reads may touch."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
import torch
from helpers.kv import NUM_BLOCKS, SHAPE, fill
from helpers.layouts import transfer_runs
from helpers.mpi import needs_mpi

from trtdisagg.cache import copying
from trtdisagg.cache.pool import KvPool, pattern
from trtdisagg.cache.transports import Transport, open_transports
from trtdisagg.cache.transports.local import LocalTransport
from trtdisagg.errors import HandoverError, StartupError
from trtdisagg.protocol.memory import TEST_BYTES, AgentMemory, Region


@pytest.fixture
def pools() -> Iterator[tuple[KvPool, KvPool]]:
    staging_bytes = 4 << 20
    with (
        KvPool(SHAPE, NUM_BLOCKS, staging_bytes=staging_bytes) as ours,
        KvPool(SHAPE, NUM_BLOCKS, staging_bytes=staging_bytes) as theirs,
    ):
        fill(ours, 1)
        fill(theirs, 2)
        yield ours, theirs


@pytest.fixture(params=["local", "local without csrc", "nixl", "ucx", pytest.param("mpi", marks=needs_mpi)])
def transports(
    request: pytest.FixtureRequest, pools: tuple[KvPool, KvPool], monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[Transport]]:
    name, _, variant = request.param.partition(" ")
    if variant:
        monkeypatch.setattr(copying, "extension", lambda: None)
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


def test_a_link_outlives_another_one_to_the_same_pool(
    transports: list[Transport], pools: tuple[KvPool, KvPool]
) -> None:
    """One to read from a rank and one to write to it, or one of a connection that was lost."""
    ours, theirs = pools
    first, second = (transports[0].connect(transports[1].describe()) for _ in range(2))
    first.close()
    second.read(transfer_runs(SHAPE, [1], SHAPE, [4], 4))
    assert torch.equal(ours.tensor[1], theirs.tensor[4])
    second.close()


def test_a_pool_can_be_read_into_itself(transports: list[Transport], pools: tuple[KvPool, KvPool]) -> None:
    link = transports[0].connect(transports[0].describe())
    link.read(transfer_runs(SHAPE, [1], SHAPE, [2], 4))
    link.close()
    assert torch.equal(pools[0].tensor[1], pools[0].tensor[2])


def test_a_read_outside_a_pool_copies_nothing(transports: list[Transport], pools: tuple[KvPool, KvPool]) -> None:
    before, size = pools[0].tensor.clone(), pools[0].region.num_bytes
    link = transports[0].connect(transports[1].describe())
    for outside in ([0, size - 4, 8], [size - 4, 0, 8], [-4, 0, 8], [0, -4, 8]):
        with pytest.raises(HandoverError, match="outside the pool"):
            link.read(np.array([[64, 0, 64], outside], np.int64))
    link.close()
    assert torch.equal(pools[0].tensor, before)


def test_runs_of_all_sizes_arrive_as_a_plain_copy_would_leave_them(
    transports: list[Transport], pools: tuple[KvPool, KvPool]
) -> None:
    """Also what goes past the cache: 6 MiB, cut anywhere, at offsets that no line begins at."""
    rng = np.random.default_rng(7)
    with contextlib.closing(transports[0].connect(transports[1].describe())) as link:
        for size in (pools[0].region.num_bytes, 200_000):
            cuts = np.sort(rng.choice(size, 300, replace=False))
            lengths = np.diff(cuts)[1::2]
            ours = rng.permutation(len(lengths))
            starts = np.cumsum(np.concatenate(([0], lengths[ours])))[:-1]
            runs = np.column_stack((starts, cuts[1:-1:2][ours], lengths[ours])).astype(np.int64)
            expected = pools[0].memory.clone()
            for to, from_, length in runs.tolist():
                expected[to : to + length] = pools[1].memory[from_ : from_ + length]
            link.read(runs)
            assert torch.equal(pools[0].memory, expected)


def test_who_can_write_writes(transports: list[Transport], pools: tuple[KvPool, KvPool]) -> None:
    if not transports[0].can_write:
        pytest.skip("it reads only")
    ours, theirs = pools
    transports[1].set_serving(True)
    with contextlib.closing(transports[0].connect(transports[1].describe())) as link:
        r = theirs.region
        link.write(np.array([[ours.region.pattern_offset, r.sink_offset, TEST_BYTES], [0, r.staging_offset, 64]]))
    assert torch.equal(theirs.memory[r.sink_offset : r.sink_offset + TEST_BYTES], pattern())
    assert torch.equal(theirs.memory[r.staging_offset : r.staging_offset + 64], ours.memory[:64])


def test_what_is_not_the_pool_meant_is_refused(pools: tuple[KvPool, KvPool]) -> None:
    ours, theirs = map(LocalTransport, pools)
    memory, theirs_bytes = theirs.describe(), pools[1].region.num_bytes
    with pytest.raises(HandoverError, match="is not the pool meant"):
        ours.connect(msgspec.structs.replace(memory, nonce=b"0" * len(memory.nonce)))
    with pytest.raises(HandoverError, match="cannot be mapped"):
        ours.connect(msgspec.structs.replace(memory, pid=2**22 + 1))
    with pytest.raises(HandoverError, match="cannot be mapped"):
        ours.connect(msgspec.structs.replace(memory, region=Region(pool_bytes=theirs_bytes * 2)))
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


def test_a_plugin_that_nixl_lacks_is_named(pools: tuple[KvPool, KvPool]) -> None:
    with (
        pytest.raises(StartupError, match=r"transport nixl: NIXL has no plugin NONE; it has .*UCX"),
        open_transports(["nixl"], pools[0], incarnation="c", one_host=True, nixl_plugin="NONE"),
    ):
        pass


def test_two_sides_with_other_plugins_say_so(transports: list[Transport]) -> None:
    memory = transports[1].describe()
    if not isinstance(memory, AgentMemory):
        pytest.skip("it has no plugins")
    with pytest.raises(HandoverError, match="plugin is UCX here and LIBFABRIC there"):
        transports[0].connect(msgspec.structs.replace(memory, plugin="LIBFABRIC"))


def test_local_needs_host_memory(pools: tuple[KvPool, KvPool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools[0], "fd", None)
    with (
        pytest.raises(StartupError, match="transport local: needs the KV pool in host memory"),
        open_transports(["local"], pools[0], incarnation="c", one_host=True),
    ):
        pass
