"""What a rank has of a model, in ranges and in bytes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from trtdisagg.protocol.parallel import Parallel
from trtdisagg.text.dimensions import (
    ModelDimensions,
    division_problems,
    kv_bytes_per_token_of_rank,
    share_of,
    weight_bytes_of_rank,
)

LLAMA_8B = ModelDimensions(
    architecture="llama",
    num_layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=128256,
    max_positions=8192,
    norm_eps=1e-5,
    tie_word_embeddings=False,
    num_parameters=8_030_261_248,
    fingerprint="llama",
)
MIXTRAL = msgspec.structs.replace(
    LLAMA_8B,
    architecture="mixtral",
    num_experts=8,
    num_active_experts=2,
    expert_size=14336,
    vocab_size=32000,
    num_parameters=46_702_792_704,
)


def bytes_of(dims: ModelDimensions, quantization: str = "none", **parallel: Any) -> list[int]:
    whole = Parallel(**parallel)
    return [weight_bytes_of_rank(dims, "bfloat16", quantization, whole, rank) for rank in range(whole.num_ranks)]


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_ranks_together_hold_the_model(quantization: str) -> None:
    whole = LLAMA_8B.weight_bytes("bfloat16", quantization)
    assert bytes_of(LLAMA_8B, quantization) == [whole]
    for divided in (
        bytes_of(LLAMA_8B, quantization, tp_size=4),
        bytes_of(LLAMA_8B, quantization, tp_size=3),
        bytes_of(LLAMA_8B, quantization, tp_size=2, pp_partition=[10, 20, 2]),
    ):
        assert sum(divided) == pytest.approx(whole, rel=1e-6)
    first, second = bytes_of(LLAMA_8B, quantization, pp_partition=[8, 24])
    assert 2 * first < second


def test_a_tied_embedding_is_at_both_ends_of_a_pipeline() -> None:
    tied = msgspec.structs.replace(
        LLAMA_8B, tie_word_embeddings=True, num_parameters=LLAMA_8B.num_parameters - 128256 * 4096
    )
    again = 2 * 128256 * 4096
    assert sum(bytes_of(tied, pp_partition=[16, 16])) == pytest.approx(tied.weight_bytes("bfloat16") + again, rel=1e-6)
    assert sum(bytes_of(tied, tp_size=2)) == pytest.approx(tied.weight_bytes("bfloat16"), rel=1e-6)


def test_with_attention_data_parallelism_only_experts_are_divided() -> None:
    size = {"tp_size": 4, "moe_tp_size": 2, "moe_ep_size": 2}
    assert bytes_of(LLAMA_8B, attention_dp=True, tp_size=2) == pytest.approx([LLAMA_8B.weight_bytes("bfloat16")] * 2)
    divided, dp = bytes_of(MIXTRAL, **size), bytes_of(MIXTRAL, **size, attention_dp=True)
    assert sum(divided) == pytest.approx(MIXTRAL.weight_bytes("bfloat16"), rel=1e-3)
    assert sum(dp) - sum(divided) == pytest.approx(3 * bytes_beside_experts(MIXTRAL), rel=1e-3)


def bytes_beside_experts(dims: ModelDimensions) -> int:
    return 2 * (dims.num_parameters - dims.num_layers * dims.num_experts * 3 * dims.hidden_size * dims.expert_size)


def test_kv_of_a_rank() -> None:
    def kv(**parallel: Any) -> list[int]:
        whole = Parallel(**parallel)
        return [kv_bytes_per_token_of_rank(LLAMA_8B, "bfloat16", whole, rank) for rank in range(whole.num_ranks)]

    one = LLAMA_8B.kv_bytes_per_token("bfloat16")
    assert kv() == [one]
    assert kv(tp_size=2) == [one // 2] * 2
    assert kv(tp_size=16) == [one // 8] * 16
    assert kv(tp_size=2, attention_dp=True) == [one] * 2
    assert kv(pp_partition=[24, 8]) == [one * 3 // 4, one // 4]


def test_shares_of_a_rank() -> None:
    share = share_of(LLAMA_8B, Parallel(tp_size=3, pp_partition=[20, 12]), 4)
    assert (share.layers, share.vocab) == (range(20, 32), range(42752, 85504))
    assert (share.is_first, share.is_last, share.adds_biases) == (False, True, False)
    experts = share_of(MIXTRAL, Parallel(tp_size=4, moe_tp_size=2, moe_ep_size=2), 3)
    assert (experts.experts, experts.expert_inner) == (range(4, 8), range(7168, 14336))


def test_why_a_model_cannot_be_divided() -> None:
    assert division_problems(LLAMA_8B, Parallel(tp_size=4, pp_partition=[16, 16])) == []
    heads, kv_heads, inner = division_problems(LLAMA_8B, Parallel(tp_size=5))
    assert (heads[:18], kv_heads[:4], inner[:6]) == ("32 attention heads", "of 8", "an MLP")
    assert division_problems(MIXTRAL, Parallel(tp_size=2, moe_tp_size=2)) == []
    (mixed,) = division_problems(MIXTRAL, Parallel(tp_size=2))
    assert "moe_tensor_parallel_size 1 times moe_expert_parallel_size 1" in mixed
