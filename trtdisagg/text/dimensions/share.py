"""What one rank has of a model: which layers, heads, rows and columns, and how many bytes they are. Pure.

    stage 0      embedding (rows of the vocabulary)    its layers
    stage n      its layers
    last stage   its layers    norm    lm_head (rows of the vocabulary)

Of a layer a rank has: its heads' rows of q, k and v and columns of o; its rows of gate and up and columns of down; its
experts, or its part of them. Norms, learned positions and routers are whole on every rank that uses them.
"""

from __future__ import annotations

from typing import NamedTuple

from trtdisagg.protocol.parallel import ONE_RANK, Parallel, problems
from trtdisagg.text.dimensions.values import BYTES_EACH, INT8_BYTES, ModelDimensions


class Share(NamedTuple):
    """Of each kind of thing in a model, those of one rank."""

    layers: range
    heads: range
    kv_heads: range
    inner: range
    """Of a dense MLP."""
    experts: range
    expert_inner: range
    """Of each of those."""
    vocab: range
    is_first: bool
    """Its stage has the embedding."""
    is_last: bool
    """Its stage has the last norm and the lm_head."""
    adds_biases: bool
    """Where ranks add up their parts of a product, this is the one that adds the bias."""


def share_of(dims: ModelDimensions, parallel: Parallel, rank: int) -> Share:
    tp_rank, stage = parallel.tp_rank(rank), parallel.pp_rank(rank)
    return Share(
        layers=parallel.layers(stage, dims.num_layers),
        heads=parallel.heads(tp_rank, dims.num_heads),
        kv_heads=parallel.kv_heads(tp_rank, dims.num_kv_heads),
        inner=parallel.columns(tp_rank, dims.intermediate_size),
        experts=parallel.experts(tp_rank, dims.num_experts),
        expert_inner=parallel.expert_columns(tp_rank, dims.expert_size),
        vocab=parallel.columns(tp_rank, dims.vocab_size),
        is_first=stage == 0,
        is_last=stage == parallel.pp_size - 1,
        adds_biases=parallel.attention_dp or tp_rank == 0,
    )


def division_problems(dims: ModelDimensions, parallel: Parallel) -> list[str]:
    """Why a model cannot be divided like this; empty: it can."""
    return problems(
        parallel,
        num_layers=dims.num_layers,
        num_heads=dims.num_heads,
        num_kv_heads=dims.num_kv_heads,
        inner_sizes=[] if all(map(dims.has_experts, range(dims.num_layers))) else [dims.intermediate_size],
        num_experts=dims.num_experts,
        expert_size=dims.expert_size,
    )


def weight_bytes_of_rank(dims: ModelDimensions, dtype: str, quantization: str, parallel: Parallel, rank: int) -> int:
    """Of a rank's weights in memory. The ranks' sum is more than the model's: some is whole on each, and a tied
    embedding is at both ends of a pipeline."""
    if parallel.num_ranks == 1:
        return dims.weight_bytes(dtype, quantization)
    share = share_of(dims, parallel, rank)
    rows = len(share.vocab) * dims.hidden_size
    embedding, head = rows * share.is_first, rows * share.is_last
    in_layers = _in_layers(dims, share)
    if quantization != "none":
        return int(embedding * BYTES_EACH[dtype] + (in_layers + head) * INT8_BYTES)
    is_shared = dims.tie_word_embeddings and share.is_first and share.is_last
    return int((in_layers + (rows if is_shared else embedding + head)) * BYTES_EACH[dtype])


def kv_bytes_per_token_of_rank(dims: ModelDimensions, dtype: str, parallel: Parallel, rank: int) -> int:
    """Bytes of K and V that a rank has of one token; with attention data parallelism of one of its own requests."""
    share = share_of(dims, parallel, rank)
    return 2 * len(share.layers) * len(share.kv_heads) * dims.head_dim * BYTES_EACH[dtype]


def _in_layers(dims: ModelDimensions, share: Share) -> float:
    """Parameters in a rank's layers: the matrices counted; what is small is spread like them."""
    all_layers = share_of(dims, ONE_RANK, 0)
    ends = dims.vocab_size * dims.hidden_size * (1 if dims.tie_word_embeddings else 2)
    return (dims.num_parameters - ends) * _in_matrices(dims, share) / _in_matrices(dims, all_layers)


def _in_matrices(dims: ModelDimensions, share: Share) -> int:
    """Parameters in the matrices of a rank's layers, over the width of the model."""
    attention = 2 * (len(share.heads) + len(share.kv_heads)) * dims.head_dim
    per_mlp = 2 if dims.architecture == "gpt2" else 3
    dense = per_mlp * len(share.inner)
    mixed = dims.num_experts + per_mlp * len(share.experts) * len(share.expert_inner)
    return sum(attention + (mixed if dims.has_experts(i) else dense) for i in share.layers)
