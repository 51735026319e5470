"""From the keys of a section to the division of a model."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.plans import TINY
from msgspec.structs import replace

from trtdisagg.config.server_keys import ServerSection
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.supervisor.division import Divided, parallel_of

MIXED = replace(TINY, architecture="qwen3_moe", num_layers=5, num_experts=8, num_active_experts=2, expert_size=64)


def division(**keys: Any) -> Parallel:
    return parallel_of(ServerSection(**keys), MIXED, "context_servers")


def test_stages_are_as_even_as_can_be_unless_the_file_says() -> None:
    assert division().pp_partition == []
    assert division(pipeline_parallel_size=2).pp_partition == [3, 2]
    assert division(pipeline_parallel_size=2, pp_partition=[1, 4]).pp_partition == [1, 4]
    unknown = parallel_of(ServerSection(pipeline_parallel_size=3), None, "context_servers")
    assert unknown.num_ranks == 3


@pytest.mark.parametrize(
    ("moe_tp", "moe_ep", "derived"),
    [(None, None, (4, 1)), (-1, 4, (1, 4)), (None, 2, (2, 2)), (2, -1, (2, 2)), (1, 4, (1, 4))],
)
def test_what_the_file_leaves_open_of_the_experts_follows(
    moe_tp: int | None, moe_ep: int | None, derived: tuple[int, int]
) -> None:
    model = replace(MIXED, num_kv_heads=4)
    section = ServerSection(tensor_parallel_size=4, moe_tensor_parallel_size=moe_tp, moe_expert_parallel_size=moe_ep)
    found = parallel_of(section, model, "context_servers")
    assert (found.moe_tp_size, found.moe_ep_size) == derived


def test_one_rank_has_no_requests_to_share_out() -> None:
    assert not division(enable_attention_dp=True).attention_dp
    assert division(enable_attention_dp=True, tensor_parallel_size=2).dp_size == 2


def test_all_reasons_are_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        division(tensor_parallel_size=3, moe_tensor_parallel_size=2, moe_expert_parallel_size=2)
    assert caught.value.message.startswith("context_servers: the model cannot be divided like this: 4 attention heads")
    assert "moe_tensor_parallel_size 2 times moe_expert_parallel_size 2 is not tensor_parallel_size 3" in str(caught)


def test_ranks_of_uneven_stages_hold_different_amounts() -> None:
    first, last = Divided(MIXED, division(pipeline_parallel_size=2, pp_partition=[1, 4])).rank_weights(
        "float32", "none"
    )
    assert first < last
    assert Divided(None, division(tensor_parallel_size=2)).rank_weights("float32", "none") == [0, 0]
