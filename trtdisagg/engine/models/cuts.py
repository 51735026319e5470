"""Where stored tensors are cut: each dimension that a model has, how long it is in the files, and what of it is ours.

A family says which of them a tensor has (`parts.linear(names, [cut.q], cut.width)`), and need not know that there are
other ranks.
"""

from __future__ import annotations

from typing import NamedTuple

from trtdisagg.text.dimensions import ModelDimensions, Share

Part = tuple[range, ...]
"""What is wanted of each dimension of a tensor."""


class Cut(NamedTuple):
    """One dimension of a stored tensor."""

    size: int
    """Of the tensor."""
    own: range
    """What this rank has of it."""

    @property
    def is_whole(self) -> bool:
        return len(self.own) == self.size

    def within(self, size: int, start: int) -> Cut:
        """The same where it is a part, from `start` on, of a longer dimension."""
        return Cut(size, range(start + self.own.start, start + self.own.stop))


class Cuts:
    """The dimensions of a model's matrices, as one rank has them."""

    def __init__(self, dims: ModelDimensions, share: Share) -> None:
        self.width = whole(dims.hidden_size)
        self.q = _heads(dims.num_heads, share.heads, dims.head_dim)
        self.kv = _heads(dims.num_kv_heads, share.kv_heads, dims.head_dim)
        self.inner = Cut(dims.intermediate_size, share.inner)
        """Of a dense MLP."""
        self.expert = Cut(dims.expert_size, share.expert_inner)
        """The same of an expert."""
        self.vocab = Cut(dims.vocab_size, share.vocab)


def whole(size: int) -> Cut:
    """One that is not divided."""
    return Cut(size, range(size))


def _heads(num_heads: int, own: range, head_dim: int) -> Cut:
    return Cut(num_heads * head_dim, range(own.start * head_dim, own.stop * head_dim))
