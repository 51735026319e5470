"""A model runner without a model: the next token is a pure function of all tokens before it, as read back from "KV".

A wrong block table, position or a chunk that was left out therefore shows as wrong tokens.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch
from fakes.handover import Fetch
from torch import Tensor

from trtdisagg.engine.interfaces import Guide
from trtdisagg.engine.request import Request
from trtdisagg.engine.sampling import Row, sample
from trtdisagg.engine.step import Chunk, Step

VOCAB_SIZE = 50
Place = tuple[int, int, int]
"""dp rank, block, offset."""


class FakeRunner:
    """Keeps the token itself as the KV of its position."""

    def __init__(self, tokens_per_block: int) -> None:
        self.tokens_per_block = tokens_per_block
        self.kv: dict[Place, int] = {}
        self.steps: list[Step] = []
        self.failure: Exception | None = None
        """Raised by the next steps, until it is taken back."""
        self.nan_tokens: set[int] = set()
        """A sequence that ends with one of these gets no finite logits."""
        self.unread_blocks: set[int] = set()
        """Written by steps of which no row was there to be read: other stages, or a device, may be far behind."""
        self._late: list[tuple[Place, int]] = []
        """What was launched ahead writes as late as a device may: before the next step, or when it is waited for."""

    def run_ahead(self, chunks: Sequence[Chunk], tokens: Tensor) -> Tensor:
        self.wait()
        rows = []
        for chunk, token in zip(chunks, tokens.tolist(), strict=True):
            assert not chunk.tokens
            self._late.append((self._place(chunk, chunk.start), token))
            rows.append(self._after([*self._read(chunk, chunk.start), token]))
        return torch.from_numpy(np.stack(rows))

    def wait(self) -> None:
        self.kv.update(self._late)
        self._late.clear()

    def late_blocks(self) -> set[int]:
        """Those that what was launched ahead will still write to."""
        return {block for (_, block, _), _ in self._late}

    def run(self, step: Step) -> Tensor:
        self.wait()
        self.steps.append(step)
        for source, target, dp_rank in step.copies:
            for offset in range(self.tokens_per_block):
                self.kv[dp_rank, target, offset] = self.kv.get((dp_rank, source, offset), -1)
        for chunk in step.chunks:
            for i, token in enumerate(chunk.tokens):
                self.kv[self._place(chunk, chunk.start + i)] = token
        if self.failure is not None:
            raise self.failure
        rows = [self._logits(c, end) for c in step.chunks for end in _ends_with_logits(c)]
        self.unread_blocks = set() if rows else self.unread_blocks.union(*(c.blocks for c in step.chunks))
        return torch.from_numpy(np.stack(rows) if rows else np.empty((0, VOCAB_SIZE), np.float32))

    def copy_kv(self, fetch: Fetch, other: FakeRunner) -> None:
        """Copy whole blocks from `other`'s pool into this one's; -1: that one is not wanted."""
        ticket = fetch.ticket
        wanted = [pair for pair in zip(fetch.blocks, ticket.blocks, strict=True) if pair[0] >= 0]
        for mine, theirs in wanted:
            for offset in range(self.tokens_per_block):
                self.kv[fetch.dp_rank, mine, offset] = other.kv.get((ticket.dp_rank, theirs, offset), -1)

    def _logits(self, chunk: Chunk, num_tokens: int) -> np.ndarray:
        return self._after(self._read(chunk, num_tokens))

    def _read(self, chunk: Chunk, num_tokens: int) -> list[int]:
        return [self.kv.get(self._place(chunk, p), -1) for p in range(num_tokens)]

    def _after(self, tokens: list[int]) -> np.ndarray:
        return np.full(VOCAB_SIZE, np.nan, np.float32) if tokens[-1] in self.nan_tokens else logits_after(tokens)

    def _place(self, chunk: Chunk, position: int) -> Place:
        return chunk.dp_rank, chunk.blocks[position // self.tokens_per_block], position % self.tokens_per_block


def _ends_with_logits(chunk: Chunk) -> range:
    end = chunk.start + len(chunk.tokens)
    return range(end - chunk.num_logits + 1, end + 1)


def logits_after(tokens: Sequence[int]) -> np.ndarray:
    seed = zlib.crc32(np.array(tokens, np.int64).tobytes())
    return np.random.default_rng(seed).standard_normal(VOCAB_SIZE, np.float32)


def tokens_alone(
    request: Request,
    num_tokens: int,
    *,
    stop_ids: frozenset[int] = frozenset(),
    choice: int = 0,
    guide: Guide | None = None,
) -> list[int]:
    """The output of a request that is computed alone, without an engine."""
    tokens = request.prompt_token_ids + request.output_token_ids
    num_prompt, sampling = len(request.prompt_token_ids), request.sampling
    while len(tokens) - num_prompt < num_tokens:
        banned = stop_ids if len(tokens) - num_prompt < sampling.min_tokens else ()
        mask = guide.mask() if guide else None
        row = Row(sampling, len(tokens), choice, banned, tokens, num_prompt, mask)
        [(token, _)] = sample(torch.from_numpy(logits_after(tokens)[None]), [row])
        assert token is not None
        tokens.append(token)
        if guide:
            guide.accept(token)
        if token in stop_ids or (guide and guide.is_complete):
            break
    return tokens[num_prompt + len(request.output_token_ids) :]
