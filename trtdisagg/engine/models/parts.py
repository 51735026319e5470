"""Takes a decoder's parts out of a weight source: right names, right shapes, several matrices fused into one.

Keeps account, so that a file that is not the model it claims to be is refused, with the names of what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trtdisagg.engine.arena import Arena
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.models.decoder import Linear, Norm, Rope
from trtdisagg.engine.models.weights import ROPE_FACTORS, WeightSource
from trtdisagg.engine.rotary import make_rope
from trtdisagg.errors import StartupError


class Parts:
    """
    :param num_positions: the longest sequence there will be.
    """

    def __init__(self, source: WeightSource, backend: Backend, *, num_positions: int) -> None:
        self._source = source
        self._backend = backend
        self._num_positions = num_positions
        self._arena = Arena(backend.device)
        self._unused = {n for n in source.names if not n.endswith("rotary_emb.inv_freq")}

    def matrix(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor in the type of weights."""
        return self._stacked([name], [shape[0]], shape[1:], self._backend.dtype)

    def vector(self, names: Sequence[str], sizes: Sequence[int]) -> Tensor:
        """Small tensors one behind the other, in float32."""
        return self._stacked(names, sizes, (), torch.float32)

    def linear(
        self, names: Sequence[str], num_outputs: Sequence[int], num_inputs: int, *, bias: bool = False
    ) -> Linear:
        """One linear layer from several that have the same input, one behind the other."""
        weights, biases = ([f"{name}.{kind}" for name in names] for kind in ("weight", "bias"))
        return Linear(
            weight=self._stacked(weights, num_outputs, (num_inputs,), self._backend.dtype),
            bias=self.vector(biases, num_outputs) if bias else None,
        )

    def norm(self, name: str, width: int, eps: float) -> Norm:
        return Norm(weight=self.vector([f"{name}.weight"], [width]), eps=eps)

    def rope(self, head_dim: int, theta: float, scaling: dict[str, Any] | None = None) -> Rope:
        factors = None
        if ROPE_FACTORS in self._source.names:
            factors = self.vector([ROPE_FACTORS], [head_dim // 2]).cpu()
        return make_rope(head_dim, theta, scaling, self._num_positions, device=self._backend.device, factors=factors)

    def ignore(self, name: str) -> None:
        self._unused.discard(name)

    def check_all_used(self) -> None:
        """
        :raises StartupError: when the files hold tensors that nobody asked for.
        """
        if self._unused:
            raise StartupError(f"The weights hold tensors that this model does not have: {_listed(self._unused)}")

    def _stacked(
        self, names: Sequence[str], heights: Sequence[int], rest: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        whole = self._arena.empty((sum(heights), *rest), dtype)
        for name, part in zip(names, whole.split(list(heights)), strict=True):
            self._read_into(part, name)
        return whole

    def _read_into(self, target: Tensor, name: str) -> None:
        if name not in self._source.names:
            raise StartupError(f"The weights lack the tensor {name}; they hold {_listed(self._source.names)}")
        tensor = self._source.read(name)
        if tensor.shape != target.shape:
            wanted = list(target.shape)
            raise StartupError(f"The tensor {name} has shape {list(tensor.shape)}, but the model needs {wanted}")
        target.copy_(tensor)
        self._unused.discard(name)


def _listed(names: set[str], limit: int = 5) -> str:
    """The first few names, and how many there are beside them."""
    shown = ", ".join(sorted(names)[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown or "none"
