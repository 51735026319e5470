from __future__ import annotations

import pytest
import torch
from helpers.gangs import on_each_rank
from torch import Tensor

from trtdisagg.engine.gang.torch_ranks import TorchRanks, open_store, reach_store
from trtdisagg.protocol.parallel import Parallel

CPU = torch.device("cpu")


def rank_tensor(rank: int, rows: int = 3) -> Tensor:
    return torch.arange(rows * 4, dtype=torch.float32).reshape(rows, 4) * 10 + rank


@pytest.mark.parametrize(
    "parallel", [Parallel(tp_size=2), Parallel(pp_partition=[1, 1, 1]), Parallel(tp_size=2, pp_partition=[1, 1])]
)
def test_what_ranks_tell_each_other(parallel: Parallel) -> None:
    """Each rank checks what it gets against what the others were to give."""
    store, where = open_store(parallel.num_ranks)
    tp_size, last = parallel.tp_size, parallel.pp_size - 1

    def act(rank: int) -> None:
        tp_rank, pp_rank = parallel.tp_rank(rank), parallel.pp_rank(rank)
        ranks = TorchRanks(store if rank == 0 else reach_store(where, parallel.num_ranks), parallel, rank, CPU)
        ranks.connect()
        stage = range(rank - tp_rank, rank - tp_rank + tp_size)

        x = rank_tensor(rank)
        ranks.add_up(x)
        assert x.equal(torch.stack([rank_tensor(r) for r in stage]).sum(0))

        num_rows = [2 * r + 1 for r in range(tp_size)]  # uneven
        rows = ranks.gather(rank_tensor(rank, num_rows[tp_rank]), num_rows)
        assert rows.equal(torch.cat([rank_tensor(r, n) for r, n in zip(stage, num_rows, strict=True)]))

        x = torch.zeros(3, 4)
        if pp_rank > 0:
            ranks.take_over(x)
            assert x.equal(rank_tensor(rank - tp_size))
        if pp_rank < last:
            ranks.pass_on(rank_tensor(rank))
        if last and tp_rank == 0 and pp_rank in (0, last):
            x = torch.zeros(3, 4) if rank == 0 else rank_tensor(rank)
            ranks.to_first(x)
            assert x.equal(rank_tensor(last * tp_size))

    on_each_rank(parallel.num_ranks, act)


def test_rows_of_which_some_ranks_have_none() -> None:
    store, where = open_store(2)

    def act(rank: int) -> Tensor:
        ranks = TorchRanks(store if rank == 0 else reach_store(where, 2), Parallel(tp_size=2), rank, CPU)
        ranks.connect()
        return ranks.gather(rank_tensor(rank, 3 * rank), [0, 3])

    for rows in on_each_rank(2, act):
        assert rows.equal(rank_tensor(1))
