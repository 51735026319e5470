"""What each process of a child has for itself: the plan of a server is that of rank 0. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor.child_plan import ChildPlan


def rank_spec(child: ChildPlan, rank: int) -> EngineSpec | ProxySpec:
    if isinstance(child.spec, ProxySpec):
        return child.spec
    return replace(child.spec, rank=rank, cores=child.rank_cores[rank] or None)


def rank_argv(child: ChildPlan, rank: int, incarnation: str) -> list[str]:
    """Without `--spec FILE`, which is added at the start."""
    return child.profile.around(child.argv, incarnation, rank) if child.profile else child.argv


def rank_env(child: ChildPlan, rank: int) -> dict[str, str]:
    """A rank sees no other GPU than its own."""
    return {**child.env, "CUDA_VISIBLE_DEVICES": child.gpus[rank]} if child.gpus else child.env
