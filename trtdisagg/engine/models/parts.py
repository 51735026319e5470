"""Takes a decoder's parts out of a weight source: right names, right shapes, several matrices fused into one.

Keeps account, so that a file that is not the model it claims to be is refused, with the names of what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from trtdisagg.engine.arena import Arena
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.models.decoder import Layer, Linear, Norm, Rope
from trtdisagg.engine.models.names import ROPE_FACTORS
from trtdisagg.engine.models.weights import WeightSource
from trtdisagg.engine.quantize import quantize
from trtdisagg.engine.rotary import make_rope
from trtdisagg.errors import StartupError
from trtdisagg.protocol.spec import Quantization


class Parts:
    """
    :param num_positions: the longest sequence there will be.
    :param quantization: what linear layers become as they are read; the router of experts stays as it is.
    """

    def __init__(
        self, source: WeightSource, backend: Backend, *, num_positions: int, quantization: Quantization = "none"
    ) -> None:
        self._source = source
        self._backend = backend
        self._num_positions = num_positions
        self._is_quantized = quantization == "int8"
        self._arena = Arena(backend.device)
        self._unused = set(source.names)

    def each_layer(self, num_layers: int, make: Callable[[int], Layer]) -> tuple[Layer, ...]:
        """All layers, several at a time: what takes long in reading leaves other threads the interpreter."""

        def made(index: int) -> Layer:
            with torch.inference_mode():
                return make(index)

        torch.set_num_threads(1)  # of each of these: teams that wait for each other only hold each other up
        try:
            with ThreadPoolExecutor(self._backend.num_threads) as threads:
                return tuple(threads.map(made, range(num_layers)))
        finally:
            torch.set_num_threads(self._backend.num_threads)

    def matrix(self, name: str, shape: tuple[int, int], *, dtype: torch.dtype | None = None) -> Tensor:
        """One tensor, in the type of weights unless another is asked for."""
        return self._stacked([name], [shape[0]], shape[1:], dtype or self._backend.dtype)

    def linear(
        self,
        names: Sequence[str],
        num_outputs: Sequence[int],
        num_inputs: int,
        *,
        bias: bool = False,
        is_transposed: bool = False,
    ) -> Linear:
        """One linear layer from several that have the same input, one behind the other.

        :param is_transposed: the file has [inputs, outputs].
        """
        shape = (sum(num_outputs), num_inputs)
        whole = self._passing(shape) if self._is_quantized else self._arena.empty(shape, self._backend.dtype)
        self._read_behind_each_other(whole, [f"{n}.weight" for n in names], num_outputs, is_transposed=is_transposed)
        bias_values = self._vector([f"{name}.bias" for name in names], num_outputs) if bias else None
        return self._quantized(Linear(weight=whole, bias=bias_values))

    def router(self, name: str, num_experts: int, num_inputs: int) -> Linear:
        return Linear(weight=self.matrix(f"{name}.weight", (num_experts, num_inputs)))

    def lm_head(self, embedding: Tensor, *, is_tied: bool) -> Linear:
        if is_tied:
            self._unused.discard("lm_head.weight")
            return self._quantized(Linear(weight=embedding))
        num_outputs, num_inputs = embedding.shape
        return self.linear(["lm_head"], [num_outputs], num_inputs)

    def norm(self, name: str, width: int, eps: float, *, bias: bool = False, plus_one: bool = False) -> Norm:
        """
        :param plus_one: the file has what is added to 1.
        """
        weight = self._vector([f"{name}.weight"], [width])
        if plus_one:
            weight += 1
        return Norm(weight=weight, bias=self._vector([f"{name}.bias"], [width]) if bias else None, eps=eps)

    def rope(self, head_dim: int, theta: float, scaling: dict[str, Any] | None = None) -> Rope:
        factors = None
        if scaling is not None and ROPE_FACTORS in self._source.names:
            factors = self._vector([ROPE_FACTORS], [head_dim // 2]).cpu()
        return make_rope(head_dim, theta, scaling, self._num_positions, device=self._backend.device, factors=factors)

    def check_all_used(self) -> None:
        """
        :raises StartupError: when the files hold tensors that nobody asked for.
        """
        if self._unused:
            raise StartupError(f"The weights hold tensors that this model does not have: {_listed(self._unused)}")

    def _vector(self, names: Sequence[str], sizes: Sequence[int]) -> Tensor:
        """Small tensors one behind the other, in float32."""
        return self._stacked(names, sizes, (), torch.float32)

    def _passing(self, shape: tuple[int, int]) -> Tensor:
        """Memory for a weight that does not stay."""
        return torch.empty(shape, dtype=self._backend.dtype, device=self._backend.device)

    def _quantized(self, linear: Linear) -> Linear:
        return quantize(linear, self._arena.empty) if self._is_quantized else linear

    def _stacked(
        self, names: Sequence[str], heights: Sequence[int], rest: tuple[int, ...], dtype: torch.dtype
    ) -> Tensor:
        whole = self._arena.empty((sum(heights), *rest), dtype)
        self._read_behind_each_other(whole, names, heights)
        return whole

    def _read_behind_each_other(
        self, target: Tensor, names: Sequence[str], heights: Sequence[int], *, is_transposed: bool = False
    ) -> None:
        for name, part in zip(names, target.split(list(heights)), strict=True):
            self._read_into(part.t() if is_transposed else part, name)

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
