"""Triton kernels: what a step does beside its products. They take strides and addresses, and know no step.

    pool     [block][layer][kv_head][k|v][token][head_dim]
    qkv      [token][heads: queries, keys, values][head_dim]
    tiles    [tile][row, num_tokens, position, table]: consecutive tokens of one chunk, the first at row `row` of qkv
             and at `position` of its sequence, whose blocks are row `table` of `tables`; num_tokens 0: nothing to do

Softmax is online and over splits of the keys, as in Dao et al., "FlashAttention" (2022) and its decoding form (2023).
"""

# The language of kernels is Python's, but not its types.
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_norm(
    x, delta, weight, bias, out, width, eps,
    HAS_DELTA: tl.constexpr, IS_LAYER_NORM: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """x += delta (where there is one), then out = norm(x); a program has one row, in float32."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, WIDTH)
    is_in = i < width
    values = tl.load(x + row * width + i, mask=is_in, other=0.0).to(tl.float32)
    if HAS_DELTA:
        values += tl.load(delta + row * width + i, mask=is_in, other=0.0).to(tl.float32)
        rounded = values.to(x.dtype.element_ty)  # what the next layer adds to is what is normalized here
        tl.store(x + row * width + i, rounded, mask=is_in)
        values = rounded.to(tl.float32)
    if IS_LAYER_NORM:
        values = tl.where(is_in, values - tl.sum(values, 0) / width, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(values * values, 0) / width + eps)
    values = values * scale * tl.load(weight + i, mask=is_in, other=0.0)
    if IS_LAYER_NORM:
        values += tl.load(bias + i, mask=is_in, other=0.0)
    tl.store(out + row * width + i, values.to(out.dtype.element_ty), mask=is_in)


@triton.jit
def activate(
    inner, out, width,
    ACTIVATION: tl.constexpr, IS_GATED: tl.constexpr, SIZE: tl.constexpr,
):  # fmt: skip
    """out [rows, width] = activation(gate) * up of [rows, 2 width], or activation(inner)."""
    row = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * SIZE + tl.arange(0, SIZE)
    is_in = i < width
    from_row = inner + row * (2 * width if IS_GATED else width)
    x = tl.load(from_row + i, mask=is_in, other=0.0).to(tl.float32)
    if ACTIVATION == "silu":
        y = x * tl.sigmoid(x)
    elif ACTIVATION == "gelu":
        y = 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    else:  # gelu_tanh; tanh(z) = 2 sigmoid(2 z) - 1
        y = x * tl.sigmoid(2.0 * 0.7978845608028654 * (x + 0.044715 * x * x * x))
    if IS_GATED:
        y *= tl.load(from_row + width + i, mask=is_in, other=0.0).to(tl.float32)
    tl.store(out + row * width + i, y.to(out.dtype.element_ty), mask=is_in)


@triton.jit
def rotate_and_store(
    qkv, pool, positions, blocks, cosines, sines, q_norm, k_norm, eps, block_stride, head_stride, value_offset,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr,
    TOKENS_PER_BLOCK: tl.constexpr, HAS_ROPE: tl.constexpr, HAS_NORM: tl.constexpr,
):  # fmt: skip
    """Normalize and turn queries where they are, keys into the pool, and copy values there; one head of one token.

    `blocks` has the block of each token, negative for rows that only fill a batch up.
    """
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    half: tl.constexpr = HEAD_DIM // 2
    i = tl.arange(0, HALF)
    is_in = i < half
    at = qkv + (token * (NUM_HEADS + 2 * NUM_KV_HEADS) + head) * HEAD_DIM
    first = tl.load(at + i, mask=is_in, other=0.0).to(tl.float32)
    second = tl.load(at + half + i, mask=is_in, other=0.0).to(tl.float32)
    position = tl.load(positions + token).to(tl.int64)
    if head < NUM_HEADS + NUM_KV_HEADS:
        if HAS_NORM:
            weight = q_norm if head < NUM_HEADS else k_norm
            scale = 1.0 / tl.sqrt((tl.sum(first * first, 0) + tl.sum(second * second, 0)) / HEAD_DIM + eps)
            first *= scale * tl.load(weight + i, mask=is_in, other=0.0)
            second *= scale * tl.load(weight + half + i, mask=is_in, other=0.0)
        if HAS_ROPE:
            cosine = tl.load(cosines + position * half + i, mask=is_in, other=0.0)
            sine = tl.load(sines + position * half + i, mask=is_in, other=0.0)
            turned = first * cosine - second * sine
            second = second * cosine + first * sine
            first = turned
    if head < NUM_HEADS:
        tl.store(at + i, first.to(qkv.dtype.element_ty), mask=is_in)
        tl.store(at + half + i, second.to(qkv.dtype.element_ty), mask=is_in)
    else:
        is_value = (head >= NUM_HEADS + NUM_KV_HEADS).to(tl.int64)
        kv_head = head - NUM_HEADS - is_value * NUM_KV_HEADS
        block = tl.load(blocks + token).to(tl.int64)
        to = pool + block * block_stride + kv_head * head_stride + is_value * value_offset
        to += position % TOKENS_PER_BLOCK * HEAD_DIM
        if block >= 0:
            tl.store(to + i, first.to(pool.dtype.element_ty), mask=is_in)
            tl.store(to + half + i, second.to(pool.dtype.element_ty), mask=is_in)


@triton.jit
def attend(
    qkv, pool, tiles, tables, out, sums, stats, table_stride, block_stride, head_stride, value_offset, scale, softcap,
    window, NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr,
    TOKENS_PER_BLOCK: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr, NUM_SPLITS: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr, HAS_WINDOW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile, for the query heads that share one KV head, over one split of its keys.

    Row r of a tile is token r // group and query head r % group. With one split the result goes to `out` [token, head,
    head_dim]; with more, its unnormalized sum to `sums` float32 [split, token, head, head_dim], the greatest score and
    the sum of weights to `stats` float32 [split, token, head, 2].
    """
    tile, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    group: tl.constexpr = NUM_HEADS // NUM_KV_HEADS
    row = tl.load(tiles + tile * 4).to(tl.int64)
    num_tokens = tl.load(tiles + tile * 4 + 1)
    position = tl.load(tiles + tile * 4 + 2)
    table = tables + tl.load(tiles + tile * 4 + 3).to(tl.int64) * table_stride

    r = tl.arange(0, ROWS)
    is_row = r // group < num_tokens
    head = (row + r // group) * NUM_HEADS + kv_head * group + r % group
    in_qkv = (row + r // group) * (NUM_HEADS + 2 * NUM_KV_HEADS) + kv_head * group + r % group
    d = tl.arange(0, DIM)
    is_dim = d < HEAD_DIM
    is_query = is_row[:, None] & is_dim[None, :]
    queries = tl.load(qkv + in_qkv[:, None] * HEAD_DIM + d[None, :], mask=is_query, other=0.0)
    mine = position + r // group

    end = position + num_tokens
    begin = 0
    if HAS_WINDOW:
        begin = tl.maximum(0, position - window + 1)
    if num_tokens == 0:
        end = begin
    per_split = tl.cdiv(tl.cdiv(end - begin, NUM_SPLITS), KEYS) * KEYS
    first = begin + split * per_split
    last = tl.minimum(first + per_split, end)

    largest = tl.full([ROWS], float("-inf"), tl.float32)
    weight = tl.zeros([ROWS], tl.float32)
    total = tl.zeros([ROWS, DIM], tl.float32)
    for start in range(first, last, KEYS):
        key = start + tl.arange(0, KEYS)
        is_key = key < last
        block = tl.load(table + key // TOKENS_PER_BLOCK, mask=is_key, other=0).to(tl.int64)
        at = pool + block * block_stride + kv_head * head_stride + key % TOKENS_PER_BLOCK * HEAD_DIM
        keys = tl.load(at[None, :] + d[:, None], mask=is_dim[:, None] & is_key[None, :], other=0.0)
        scores = tl.dot(queries, keys.to(queries.dtype), input_precision=PRECISION) * scale
        if HAS_SOFTCAP:
            scores = softcap * (2.0 * tl.sigmoid(2.0 * scores / softcap) - 1.0)
        is_seen = is_key[None, :] & (key[None, :] <= mine[:, None])
        if HAS_WINDOW:
            is_seen = is_seen & (key[None, :] > mine[:, None] - window)
        scores = tl.where(is_seen, scores, float("-inf"))
        now = tl.maximum(largest, tl.max(scores, 1))
        base = tl.where(now == float("-inf"), 0.0, now)  # a row that has seen no key yet
        weights = tl.exp(scores - base[:, None])
        shrink = tl.exp(largest - base)
        weight = weight * shrink + tl.sum(weights, 1)
        values = tl.load(at[:, None] + value_offset + d[None, :], mask=is_key[:, None] & is_dim[None, :], other=0.0)
        values = values.to(queries.dtype)
        total = total * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        largest = now

    if NUM_SPLITS == 1:
        result = total / tl.where(weight == 0.0, 1.0, weight)[:, None]
        tl.store(out + head[:, None] * HEAD_DIM + d[None, :], result.to(out.dtype.element_ty), mask=is_query)
    else:
        part = split.to(tl.int64) * tl.num_programs(0) * NUM_HEADS + head  # one token a tile
        tl.store(sums + part[:, None] * HEAD_DIM + d[None, :], total, mask=is_query)
        tl.store(stats + part * 2, largest, mask=is_row)
        tl.store(stats + part * 2 + 1, weight, mask=is_row)


@triton.jit
def combine(
    sums, stats, out, num_heads_in_all,
    HEAD_DIM: tl.constexpr, DIM: tl.constexpr, NUM_SPLITS: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """Put the splits of one head of one token together."""
    head = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, SPLITS)
    is_split = s < NUM_SPLITS
    part = s * num_heads_in_all + head
    largest = tl.load(stats + part * 2, mask=is_split, other=float("-inf"))
    weight = tl.load(stats + part * 2 + 1, mask=is_split, other=0.0)
    top = tl.max(largest, 0)
    shrink = tl.where(largest == float("-inf"), 0.0, tl.exp(largest - top))
    d = tl.arange(0, DIM)
    is_in = is_split[:, None] & (d < HEAD_DIM)[None, :]
    parts = tl.load(sums + part[:, None] * HEAD_DIM + d[None, :], mask=is_in, other=0.0)
    result = tl.sum(parts * shrink[:, None], 0) / tl.sum(weight * shrink, 0)
    tl.store(out + head * HEAD_DIM + d, result.to(out.dtype.element_ty), mask=d < HEAD_DIM)
