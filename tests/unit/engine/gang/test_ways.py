from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.gangs import TIMEOUT_S, gang_spec, on_each_rank
from torch import Tensor

from trtdisagg.cache.native import extension
from trtdisagg.engine.gang import ways
from trtdisagg.engine.gang.shared_ranks import SharedRanks
from trtdisagg.engine.gang.torch_ranks import TorchRanks
from trtdisagg.engine.gang.ways import Way, open_way, reach_way
from trtdisagg.errors import StartupError
from trtdisagg.protocol.parallel import Parallel

TP2 = Parallel(tp_size=2)
OPEN = Path("/proc/self/fd")


@pytest.fixture(params=["shared", "gloo"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Way]:
    if request.param == "gloo":
        monkeypatch.setattr(ways, "extension", lambda: None)
        return TorchRanks
    if extension() is None:
        pytest.skip("the C++ extension is not there")
    return SharedRanks


def act_on_each(parallel: Parallel, directory: Path, kind: type[Way], act: Callable[[Way], object]) -> None:
    """Connect all ranks and let each do something."""
    first, where = open_way(gang_spec(directory, parallel))

    def live(rank: int) -> None:
        way = first if rank == 0 else reach_way(gang_spec(directory, parallel, rank), where)
        assert isinstance(way, kind)
        way.connect()
        act(way)

    on_each_rank(parallel.num_ranks, live)


def rank_tensor(rank: int, rows: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.arange(rows * 4, dtype=torch.float32) % 1000 * 10 + rank).to(dtype).reshape(rows, 4)


@pytest.mark.parametrize(
    "parallel", [TP2, Parallel(pp_partition=[1, 1, 1]), Parallel(tp_size=3, pp_partition=[1, 1])], ids=str
)
@pytest.mark.parametrize("rows", [3, 70_000], ids=["small", "more than a piece"])
def test_what_ranks_tell_each_other(parallel: Parallel, rows: int, tmp_path: Path, kind: type[Way]) -> None:
    """Each rank checks what it gets against what the others were to give, some rounds one after the other."""
    tp_size, last = parallel.tp_size, parallel.pp_size - 1

    def act(ranks: Way) -> None:
        rank = ranks.rank
        tp_rank, pp_rank = parallel.tp_rank(rank), parallel.pp_rank(rank)
        stage = range(rank - tp_rank, rank - tp_rank + tp_size)
        for dtype in (torch.float32, torch.bfloat16):
            if tp_size > 1:
                x = rank_tensor(rank, rows, dtype)
                ranks.add_up(x)
                want = torch.stack([rank_tensor(r, rows, dtype).float() for r in stage]).sum(0).to(dtype)
                # gloo rounds after each of them
                assert x.equal(want) if kind is SharedRanks else torch.allclose(x, want, rtol=0.02)

                num_rows = [(rows - 1) * r for r in range(tp_size)]  # uneven, and one has none
                gathered = ranks.gather(rank_tensor(rank, num_rows[tp_rank], dtype), num_rows)
                assert gathered.equal(
                    torch.cat([rank_tensor(r, n, dtype) for r, n in zip(stage, num_rows, strict=True)])
                )
            x = torch.zeros(rows, 4, dtype=dtype)
            if pp_rank > 0:
                ranks.take_over(x)
                assert x.equal(rank_tensor(rank - tp_size, rows, dtype))
            if pp_rank < last:
                ranks.pass_on(rank_tensor(rank, rows, dtype))
            if last and tp_rank == 0 and pp_rank in (0, last):
                x = torch.zeros(rows, 4, dtype=dtype) if rank == 0 else rank_tensor(rank, rows, dtype)
                ranks.to_first(x)
                assert x.equal(rank_tensor(last * tp_size, rows, dtype))

    act_on_each(parallel, tmp_path, kind, act)


def test_values_that_bfloat16_rounds(tmp_path: Path) -> None:
    """As torch: to the nearest, halfway to the even one; what is no number stays none."""
    if extension() is None:
        pytest.skip("the C++ extension is not there")
    given = torch.randint(0, 1 << 16, (2, 5000), generator=torch.Generator().manual_seed(1)).to(torch.uint16)
    values = given.view(torch.bfloat16)

    def act(ranks: Way) -> None:
        x = values[ranks.rank].clone().reshape(1, -1)
        ranks.add_up(x)
        want = (values[0].float() + values[1].float()).to(torch.bfloat16)
        torch.testing.assert_close(x[0], want, rtol=0, atol=0, equal_nan=True)

    act_on_each(TP2, tmp_path, SharedRanks, act)


def test_nobody_waits_for_a_rank_that_is_gone(tmp_path: Path) -> None:
    if extension() is None:
        pytest.skip("the C++ extension is not there")
    waits = threading.Event()

    def act(ranks: Way) -> None:
        if ranks.rank == 1:
            assert waits.wait(TIMEOUT_S)
            ranks.end()
            return
        waits.set()
        with pytest.raises(RuntimeError, match="another rank has ended"):
            ranks.add_up(torch.ones(1, 4))

    act_on_each(TP2, tmp_path, SharedRanks, act)


def test_no_descriptor_is_left_over(tmp_path: Path) -> None:
    if extension() is None:
        pytest.skip("the C++ extension is not there")
    act_on_each(TP2, tmp_path, SharedRanks, lambda ranks: None)
    names = [os.readlink(OPEN / name) for name in os.listdir(OPEN) if (OPEN / name).exists()]
    assert not [name for name in names if "trtdisagg-ranks" in name]


def test_memory_that_is_not_there_is_said(tmp_path: Path) -> None:
    where = ways.SharedMemory("/proc/self/fd/9999")
    with pytest.raises(StartupError, match="the memory of rank 0 of context-0 cannot be opened"):
        reach_way(gang_spec(tmp_path, TP2, rank=1), where)


def test_across_hosts_nothing_is_shared_but_the_network(tmp_path: Path) -> None:
    spec = gang_spec(tmp_path, TP2, gang_socket=None, gang_address="192.0.2.1:1", host="localhost")
    way, where = open_way(spec)
    assert isinstance(way, TorchRanks)
    assert isinstance(where, ways.Store)
    assert where.host == "127.0.0.1", "the host's own address"
