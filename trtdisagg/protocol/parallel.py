"""How a server divides a model among its ranks: which layers, which heads, which experts are whose. Pure.

    rank = pp_rank * tp_size + tp_rank

             tp_rank 0     1     2     3
    pp_rank 0    rank 0 | 1 | 2 | 3        layers 0 .. pp_partition[0] - 1
    pp_rank 1    rank 4 | 5 | 6 | 7        the next ones

With `attention_dp` the ranks of a stage do not divide heads but requests: each has all heads and the dense MLPs whole,
and KV of its own requests alone; the experts are divided all the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class Parallel(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """The division of one model."""

    tp_size: int = 1
    pp_partition: list[int] = []
    """Layers of each stage; empty: one stage has all."""
    moe_tp_size: int = 1
    """Ranks that divide one expert among them."""
    moe_ep_size: int = 1
    """Groups of ranks that divide the experts; moe_tp_size * moe_ep_size == tp_size where there are experts."""
    attention_dp: bool = False

    @property
    def pp_size(self) -> int:
        return max(1, len(self.pp_partition))

    @property
    def num_ranks(self) -> int:
        return self.tp_size * self.pp_size

    @property
    def dp_size(self) -> int:
        """Ranks that divide the requests."""
        return self.tp_size if self.attention_dp else 1

    @property
    def attention_tp_size(self) -> int:
        """Ranks that divide the heads."""
        return 1 if self.attention_dp else self.tp_size

    def tp_rank(self, rank: int) -> int:
        return rank % self.tp_size

    def pp_rank(self, rank: int) -> int:
        return rank // self.tp_size

    def layers(self, pp_rank: int, num_layers: int) -> range:
        """Those of a stage."""
        if not self.pp_partition:
            return range(num_layers)
        first = sum(self.pp_partition[:pp_rank])
        return range(first, first + self.pp_partition[pp_rank])

    def kv_heads(self, tp_rank: int, num_kv_heads: int) -> range:
        """Those of a rank; where there are fewer than ranks, several ranks have the same one."""
        if self.attention_dp:
            return range(num_kv_heads)
        if num_kv_heads >= self.tp_size:
            return _share(num_kv_heads, self.tp_size, tp_rank)
        head = tp_rank * num_kv_heads // self.tp_size
        return range(head, head + 1)

    def heads(self, tp_rank: int, num_heads: int) -> range:
        """The query heads of a rank: those that go with its KV heads."""
        return range(num_heads) if self.attention_dp else _share(num_heads, self.tp_size, tp_rank)

    def columns(self, tp_rank: int, size: int) -> range:
        """What a rank has of a dense MLP that is so wide inside, or of a vocabulary of that size; need not be even."""
        return range(size) if self.attention_dp else _share(size, self.tp_size, tp_rank)

    def expert_columns(self, tp_rank: int, size: int) -> range:
        """What a rank has of each of its experts, which are so wide inside."""
        return _share(size, self.moe_tp_size, tp_rank % self.moe_tp_size)

    def experts(self, tp_rank: int, num_experts: int) -> range:
        """Those of a rank; the ranks of one group divide each of them."""
        return _share(num_experts, self.moe_ep_size, tp_rank // self.moe_tp_size)


ONE_RANK = Parallel()
"""Nothing is divided."""


def even_partition(num_layers: int, pp_size: int) -> list[int]:
    """Layers of each stage, the first ones with one more where it does not come out even.

    >>> even_partition(22, 4)
    [6, 6, 5, 5]
    """
    few, rest = divmod(num_layers, pp_size)
    return [few + (stage < rest) for stage in range(pp_size)]


def _share(num_items: int, num_shares: int, index: int) -> range:
    """Consecutive items; `check_parallel` has seen to it that it comes out even where it must."""
    return range(num_items * index // num_shares, num_items * (index + 1) // num_shares)


def problems(
    parallel: Parallel,
    *,
    num_layers: int,
    num_heads: int,
    num_kv_heads: int,
    inner_sizes: Sequence[int],
    num_experts: int = 0,
    expert_size: int = 0,
) -> list[str]:
    """Why a model cannot be divided like this; empty: it can.

    :param inner_sizes: widths of its dense MLPs.
    """
    tp = parallel.attention_tp_size
    found = []
    if parallel.pp_partition and (sum(parallel.pp_partition) != num_layers or min(parallel.pp_partition) < 1):
        found.append(f"pp_partition {parallel.pp_partition} does not divide {num_layers} layers")
    if num_heads % tp:
        found.append(f"{num_heads} attention heads cannot be divided by tensor_parallel_size {tp}")
    if num_kv_heads % tp and tp % num_kv_heads:
        found.append(f"of {num_kv_heads} KV heads and tensor_parallel_size {tp} neither divides the other")
    found += [f"an MLP {size} wide cannot be divided by {tp}" for size in dict.fromkeys(inner_sizes) if size % tp]
    if num_experts:
        found += _problems_of_experts(parallel, num_experts, expert_size)
    return found


def _problems_of_experts(parallel: Parallel, num_experts: int, expert_size: int) -> list[str]:
    moe_tp, moe_ep = parallel.moe_tp_size, parallel.moe_ep_size
    found = []
    if moe_tp * moe_ep != parallel.tp_size:
        found.append(
            f"moe_tensor_parallel_size {moe_tp} times moe_expert_parallel_size {moe_ep} is not "
            f"tensor_parallel_size {parallel.tp_size}"
        )
    if num_experts % moe_ep:
        found.append(f"{num_experts} experts cannot be divided by moe_expert_parallel_size {moe_ep}")
    if expert_size % moe_tp:
        found.append(f"an expert {expert_size} wide cannot be divided by moe_tensor_parallel_size {moe_tp}")
    return found
