"""Takes a model's parts out of a weight source: right names, right shapes, several matrices fused into one.

Keeps account, so that a file that is not the model it claims to be is refused, with the names of what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trtdisagg.engine.arena import Arena
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.linear import Linear, Multiplier
from trtdisagg.engine.models.weights import WeightSource
from trtdisagg.errors import StartupError


class Parts:
    def __init__(self, source: WeightSource, backend: Backend) -> None:
        self._source = source
        self._dtype = backend.dtype
        self._arena = Arena(backend.device)
        self._multiplier = Multiplier(backend)
        self._unused = {n for n in source.names if not n.endswith("rotary_emb.inv_freq")}

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """One tensor as it is."""
        whole = self._arena.empty(shape, self._dtype)
        self._read_into(whole, name)
        return whole

    def linear(
        self, names: Sequence[str], num_outputs: Sequence[int], num_inputs: int, *, bias: bool = False
    ) -> Linear:
        """One linear layer from several that have the same input, one behind the other."""
        weight = self._stacked([f"{n}.weight" for n in names], num_outputs, (num_inputs,))
        biases = self._stacked([f"{n}.bias" for n in names], num_outputs, ()) if bias else None
        return Linear(weight, biases, self._multiplier)

    def head(self, weight: Tensor) -> Linear:
        """The layer that gives logits: in float32, since bfloat16 tells no two of them apart that differ by 0.1."""
        return Linear(weight, None, self._multiplier, out_type=torch.float32)

    def ignore(self, name: str) -> None:
        self._unused.discard(name)

    def check_all_used(self) -> None:
        """
        :raises StartupError: when the files hold tensors that nobody asked for.
        """
        if self._unused:
            raise StartupError(f"The weights hold tensors that this model does not have: {_listed(self._unused)}")

    def _stacked(self, names: Sequence[str], heights: Sequence[int], rest: tuple[int, ...]) -> Tensor:
        whole = self._arena.empty((sum(heights), *rest), self._dtype)
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
