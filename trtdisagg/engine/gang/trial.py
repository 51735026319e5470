"""Something small passed on every way that ranks have, before anybody relies on it."""

from __future__ import annotations

import torch

from trtdisagg.engine.ranks import Ranks
from trtdisagg.errors import StartupError


def try_all(ranks: Ranks, device: torch.device) -> None:
    """All ranks call this at once.

    :raises StartupError: when something else arrives than was sent.
    """
    parallel = ranks.parallel
    tp_rank, pp_rank, last = parallel.tp_rank(ranks.rank), parallel.pp_rank(ranks.rank), parallel.pp_size - 1
    x = torch.ones(1, 1, device=device)
    if parallel.tp_size > 1:
        ranks.add_up(x)
    if pp_rank > 0:
        ranks.take_over(x)
    if pp_rank < last:
        ranks.pass_on(x)
    if last > 0 and tp_rank == 0 and pp_rank in (0, last):
        ranks.to_first(x)
    if x.item() != parallel.tp_size:
        raise StartupError(f"rank {ranks.rank}: what the ranks send each other arrives wrong")
