"""What a layer does to each row by itself, fused: the residual with the norm, the activation with its gate."""

from __future__ import annotations

from torch import Tensor
from triton import cdiv, next_power_of_2

from trtdisagg.engine.cuda import kernels
from trtdisagg.engine.models.decoder import Mlp, Norm

_SIZE = 1024
"""Values that one program activates."""


def add_norm(x: Tensor, delta: Tensor | None, norm: Norm) -> Tensor:
    """x += delta, then norm(x).

    :param x: [rows, width], contiguous, as is `delta`; changed in place.
    """
    assert x.is_contiguous()
    assert delta is None or delta.is_contiguous()
    rows, width = x.shape
    out = x.new_empty(x.shape)
    size = next_power_of_2(width)
    kernels.add_norm[(rows,)](
        x,
        x if delta is None else delta,
        norm.weight,
        norm.weight if norm.bias is None else norm.bias,
        out,
        width,
        norm.eps,
        HAS_DELTA=delta is not None,
        IS_LAYER_NORM=norm.bias is not None,
        WIDTH=size,
        num_warps=min(16, max(1, size // 512)),
    )
    return out


def activated(inner: Tensor, mlp: Mlp) -> Tensor:
    """
    :param inner: [rows, 2 width] when gated, gate and up; else [rows, width].
    :return: [rows, width]
    """
    assert inner.is_contiguous()
    rows, width = inner.shape[0], inner.shape[1] // (2 if mlp.is_gated else 1)
    out = inner.new_empty(rows, width)
    kernels.activate[(rows, cdiv(width, _SIZE))](
        inner, out, width, ACTIVATION=mlp.activation, IS_GATED=mlp.is_gated, SIZE=_SIZE
    )
    return out
