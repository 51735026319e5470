"""A step as device tensors: one copy from the host for all of it, into the same place when it is to be replayed.

numbers   | tokens | positions | blocks | wanted | tiles (4 each) |     int32, one buffer
tables    | blocks of chunk 0, ... | blocks of chunk 1, ... |           int32, a row a chunk
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trtdisagg.engine.step import Chunk

Ints = npt.NDArray[np.int32]


class Batch(NamedTuple):
    """Where each token of a step stands; see `kernels` for tiles and tables."""

    tokens: Tensor
    """int32 [tokens]"""
    positions: Tensor
    blocks: Tensor
    """The block that each token's KV goes to; -1: none, the row only fills the batch up."""
    wanted: Tensor
    """Rows that need logits."""
    tiles: Tensor
    """int32 [tiles, 4]"""
    tables: Tensor
    """int32 [chunks, blocks]"""
    tile_tokens: int
    """Tokens in a tile, at most."""
    num_rows: Sequence[int] = ()
    """Tokens of each rank that divides the requests, where there are experts."""


def describe(chunks: Sequence[Chunk], tokens_per_block: int, tile_tokens: int) -> list[Ints]:
    """Tokens, positions, blocks, wanted rows and tiles of a step, on the host. A chunk without tokens has one."""
    sizes = [len(c.tokens) or 1 for c in chunks]
    ends = list(accumulate(sizes))
    positions = [np.arange(c.start, c.start + n, dtype=np.int32) for c, n in zip(chunks, sizes, strict=True)]
    blocks = [np.asarray(c.blocks, np.int32)[p // tokens_per_block] for c, p in zip(chunks, positions, strict=True)]
    wanted = [np.arange(end - c.num_logits, end, dtype=np.int32) for c, end in zip(chunks, ends, strict=True)]
    tiles = [
        (end - n + i, min(tile_tokens, n - i), c.start + i, table)
        for table, (c, n, end) in enumerate(zip(chunks, sizes, ends, strict=True))
        for i in range(0, n, tile_tokens)
    ]
    tiles.sort(key=lambda tile: -tile[2])  # those with most keys first, so that none is left at the end
    tokens = np.fromiter((t for c in chunks for t in c.tokens or [0]), np.int32, count=ends[-1])
    return [tokens, *map(np.concatenate, (positions, blocks, wanted)), np.asarray(tiles, np.int32)]


def tables_of(chunks: Sequence[Chunk]) -> Ints:
    tables = np.zeros((len(chunks), max(len(c.blocks) for c in chunks)), np.int32)
    for row, chunk in zip(tables, chunks, strict=True):
        row[: len(chunk.blocks)] = chunk.blocks
    return tables


def to_device(chunks: Sequence[Chunk], tokens_per_block: int, tile_tokens: int, device: torch.device) -> Batch:
    """A step in tensors of its own."""
    parts = describe(chunks, tokens_per_block, tile_tokens)
    numbers = _sent(np.concatenate([p.reshape(-1) for p in parts]), device)
    tokens, positions, blocks, wanted, tiles = numbers.split([p.size for p in parts])
    tables = _sent(tables_of(chunks), device)
    return Batch(tokens, positions, blocks, wanted, tiles.view(-1, 4), tables, tile_tokens)


class FixedBatch:
    """Room for up to `size` sequences with one token each, always at the same addresses: what a CUDA graph reads.

    Rows that are not used have no block to write to and no keys to see.
    """

    def __init__(self, size: int, max_blocks: int, device: torch.device) -> None:
        self.size = size
        self._numbers = torch.zeros(size * 7, dtype=torch.int32, device=device)
        tokens, positions, blocks, tiles = self._numbers.split([size, size, size, 4 * size])
        self._tables = torch.zeros(size, max_blocks, dtype=torch.int32, device=device)
        wanted = torch.arange(size, dtype=torch.int32, device=device)
        self.batch = Batch(tokens, positions, blocks, wanted, tiles.view(-1, 4), self._tables, 1)
        self.fill([], 1)

    def fill(self, chunks: Sequence[Chunk], tokens_per_block: int, drawn: Tensor | None = None) -> None:
        """
        :param chunks: of one token each, and all with logits.
        :param drawn: int64 [len(chunks)], their tokens, where the chunks have none.
        """
        # Memory of the host that is new each time: a copy from it may still be waiting for its turn.
        numbers = np.zeros(self.size * 7, np.int32)
        tokens, positions, blocks, tiles = np.split(numbers, np.cumsum([self.size] * 3))
        tiles = tiles.reshape(-1, 4)
        blocks[:] = -1
        for i, chunk in enumerate(chunks):
            tokens[i], positions[i] = chunk.tokens[0] if chunk.tokens else 0, chunk.start
            blocks[i] = chunk.blocks[chunk.start // tokens_per_block]
            tiles[i] = (i, 1, chunk.start, i)
        self._numbers.copy_(_sent(numbers, self._numbers.device))
        if drawn is not None:
            self.batch.tokens[: len(chunks)] = drawn.clamp_min(0)
        if chunks:
            tables = _sent(tables_of(chunks), self._tables.device)
            self._tables[: tables.shape[0], : tables.shape[1]] = tables


def _sent(numbers: Ints, device: torch.device) -> Tensor:
    """On its way to the device: nobody waits for it here."""
    tensor = torch.from_numpy(np.ascontiguousarray(numbers))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
