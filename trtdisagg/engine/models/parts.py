"""Takes a rank's share of a decoder out of a weight source: right names, right shapes, several matrices fused into one.

Keeps account, so that a file that is not the model it claims to be is refused, with the names of what is wrong. What
other ranks read is theirs to check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from trtdisagg.engine.arena import Arena
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.models.cuts import Cut, Cuts, whole
from trtdisagg.engine.models.decoder import Layer, Linear, Norm, Rope
from trtdisagg.engine.models.names import ROPE_FACTORS
from trtdisagg.engine.models.weights import WeightSource
from trtdisagg.engine.quantize import quantize
from trtdisagg.engine.rotary import make_rope
from trtdisagg.errors import StartupError
from trtdisagg.protocol.spec import Quantization
from trtdisagg.text.dimensions import ModelDimensions, Share


class Parts:
    """
    :param num_positions: the longest sequence there will be.
    :param quantization: what linear layers become as they are read; the router of experts stays as it is.
    """

    def __init__(
        self,
        source: WeightSource,
        backend: Backend,
        dims: ModelDimensions,
        share: Share,
        *,
        num_positions: int,
        quantization: Quantization = "none",
    ) -> None:
        self.share = share
        self.cut = Cuts(dims, share)
        self._num_layers = dims.num_layers
        self._source = source
        self._backend = backend
        self._num_positions = num_positions
        self._is_quantized = quantization == "int8"
        self._arena = Arena(backend.device)
        self._unused = set(source.names)
        self._left: set[str] = set()

    def each_layer(self, name: Callable[[int], str], make: Callable[[int], Layer]) -> tuple[Layer, ...]:
        """The layers of this stage, several at a time: what takes long in reading leaves other threads the interpreter.

        :param name: what the names of a layer's tensors begin with.
        """
        for index in set(range(self._num_layers)) - set(self.share.layers):
            self.leave(name(index))

        def made(index: int) -> Layer:
            with torch.inference_mode():
                return make(index)

        torch.set_num_threads(1)  # of each of these: teams that wait for each other only hold each other up
        try:
            with ThreadPoolExecutor(self._backend.num_threads) as threads:
                return tuple(threads.map(made, self.share.layers))
        finally:
            torch.set_num_threads(self._backend.num_threads)

    def leave(self, start: str) -> None:
        """Tensors whose names begin with this, up to a dot, are another rank's to read."""
        self._left.add(start)

    def matrix(self, name: str, rows: Cut, columns: Cut, *, dtype: torch.dtype | None = None) -> Tensor:
        """One tensor, in the type of weights unless another is asked for."""
        return self._stacked([f"{name}.weight"], [rows], [columns], dtype or self._backend.dtype)

    def linear(
        self,
        names: Sequence[str],
        outputs: Sequence[Cut],
        inputs: Cut,
        *,
        bias: bool = False,
        is_transposed: bool = False,
    ) -> Linear:
        """One linear layer from several that have the same input, one behind the other.

        :param is_transposed: the file has [inputs, outputs].
        """
        shape = (sum(len(cut.own) for cut in outputs), len(inputs.own))
        weight = self._passing(shape) if self._is_quantized else self._arena.empty(shape, self._backend.dtype)
        weights = [f"{name}.weight" for name in names]
        self._read_behind_each_other(weight, weights, outputs, [inputs], is_transposed=is_transposed)
        bias_values = self._bias([f"{name}.bias" for name in names], outputs, inputs) if bias else None
        return self._quantized(Linear(weight=weight, bias=bias_values))

    def router(self, name: str, num_experts: int) -> Linear:
        return Linear(weight=self.matrix(name, whole(num_experts), self.cut.width))

    def embedding(self, name: str) -> Tensor | None:
        """None: the first stage has it."""
        if self.share.is_first:
            return self.matrix(name, self.cut.vocab, self.cut.width)
        self.leave(f"{name}.")
        return None

    def lm_head(self, name_of_embedding: str, embedding: Tensor | None, *, is_tied: bool) -> Linear | None:
        """None: the last stage has it."""
        if is_tied:
            self._unused.discard("lm_head.weight")
        if not self.share.is_last:
            self.leave("lm_head.")
            return None
        if is_tied and embedding is not None:
            return self._quantized(Linear(weight=embedding))
        return self.linear([name_of_embedding if is_tied else "lm_head"], [self.cut.vocab], self.cut.width)

    def norm(self, name: str, width: int, eps: float, *, bias: bool = False, plus_one: bool = False) -> Norm:
        """
        :param plus_one: the file has what is added to 1.
        """
        weight = self._vector([f"{name}.weight"], [whole(width)])
        if plus_one:
            weight += 1
        return Norm(weight=weight, bias=self._vector([f"{name}.bias"], [whole(width)]) if bias else None, eps=eps)

    def last_norm(self, name: str, make: Callable[[str], Norm]) -> Norm | None:
        """None: the last stage has it."""
        if self.share.is_last:
            return make(name)
        self.leave(f"{name}.")
        return None

    def rope(self, head_dim: int, theta: float, scaling: dict[str, Any] | None = None) -> Rope:
        factors = None
        if scaling is not None and ROPE_FACTORS in self._source.names:
            factors = self._vector([ROPE_FACTORS], [whole(head_dim // 2)]).cpu()
        return make_rope(head_dim, theta, scaling, self._num_positions, device=self._backend.device, factors=factors)

    def check_all_used(self) -> None:
        """
        :raises StartupError: when the files hold tensors that nobody asked for.
        """
        if unused := {name for name in self._unused if not self._is_left(name)}:
            raise StartupError(f"The weights hold tensors that this model does not have: {_listed(unused)}")

    def _is_left(self, name: str) -> bool:
        return any(name[: i + 1] in self._left for i, letter in enumerate(name) if letter == ".")

    def _bias(self, names: Sequence[str], outputs: Sequence[Cut], inputs: Cut) -> Tensor | None:
        """None: what is computed here is a part of a sum, and the rank of another part adds it."""
        if inputs.is_whole or self.share.adds_biases:
            return self._vector(names, outputs)
        self._unused.difference_update(names)
        return None

    def _vector(self, names: Sequence[str], sizes: Sequence[Cut]) -> Tensor:
        """Small tensors one behind the other, in float32."""
        return self._stacked(names, sizes, [], torch.float32)

    def _passing(self, shape: tuple[int, int]) -> Tensor:
        """Memory for a weight that does not stay."""
        return torch.empty(shape, dtype=self._backend.dtype, device=self._backend.device)

    def _quantized(self, linear: Linear) -> Linear:
        return quantize(linear, self._arena.empty) if self._is_quantized else linear

    def _stacked(self, names: Sequence[str], heights: Sequence[Cut], rest: Sequence[Cut], dtype: torch.dtype) -> Tensor:
        shape = (sum(len(cut.own) for cut in heights), *(len(cut.own) for cut in rest))
        stacked = self._arena.empty(shape, dtype)
        self._read_behind_each_other(stacked, names, heights, rest)
        return stacked

    def _read_behind_each_other(
        self,
        target: Tensor,
        names: Sequence[str],
        heights: Sequence[Cut],
        rest: Sequence[Cut],
        *,
        is_transposed: bool = False,
    ) -> None:
        parts = target.split([len(cut.own) for cut in heights])
        for name, height, part in zip(names, heights, parts, strict=True):
            cuts = [height, *rest]
            if is_transposed:
                self._read_into(part.t(), name, cuts[::-1])
            else:
                self._read_into(part, name, cuts)

    def _read_into(self, target: Tensor, name: str, cuts: Sequence[Cut]) -> None:
        if name not in self._source.names:
            raise StartupError(f"The weights lack the tensor {name}; they hold {_listed(self._source.names)}")
        shape, wanted = self._source.shape(name), [cut.size for cut in cuts]
        if shape != wanted:
            raise StartupError(f"The tensor {name} has shape {shape}, but the model needs {wanted}")
        target.copy_(self._source.read(name, tuple(cut.own for cut in cuts)))
        self._unused.discard(name)


def _listed(names: set[str], limit: int = 5) -> str:
    """The first few names, and how many there are beside them."""
    shown = ", ".join(sorted(names)[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown or "none"
