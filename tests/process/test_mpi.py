"""MPI does not end the process of who holds KV when a process that reads it is killed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from helpers.kv import NUM_BLOCKS, SHAPE, fill
from helpers.layouts import transfer_runs
from helpers.mpi import needs_mpi

from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transports import Transport, open_transports

ROOT = Path(__file__).parents[2]


@needs_mpi
@pytest.mark.parametrize("tls", ["all", "tcp"])
def test_readers_are_killed_in_the_middle(tls: str, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--soak"):
        pytest.skip("with --soak: MPICH may end this process, too")
    with (
        KvPool(SHAPE, NUM_BLOCKS) as pool,
        open_transports(["mpi"], pool, incarnation="holder", one_host=True) as (transport,),
    ):
        fill(pool, 1)
        for _ in range(2):
            _read_and_die(transport, tls)
        with contextlib.closing(transport.connect(transport.describe())) as link:
            link.read(transfer_runs(SHAPE, [1], SHAPE, [2], 4))
        assert torch.equal(pool.tensor[1], pool.tensor[2])


def _read_and_die(holder: Transport, tls: str) -> None:
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    with subprocess.Popen(
        [sys.executable, "-m", "fakes.mpi_reader"],
        env={**os.environ, "PYTHONPATH": path, "UCX_TLS": tls},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as reader:
        assert reader.stdin
        assert reader.stdout
        try:
            reader.stdin.write(msgspec.msgpack.encode(holder.describe()))
            reader.stdin.close()
            assert reader.stdout.readline() == b"read\n"
        finally:
            reader.kill()
