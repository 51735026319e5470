"""The KV layout of a server, from its spec and the dimensions of its model."""

from __future__ import annotations

from trtdisagg.protocol.handover import KvLayout
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.text.dimensions.values import ModelDimensions


def kv_layout(spec: EngineSpec, dims: ModelDimensions) -> KvLayout:
    return KvLayout(
        model=dims.fingerprint,
        dtype=spec.dtype,
        num_layers=dims.num_layers,
        num_kv_heads=dims.num_kv_heads,
        head_dim=dims.head_dim,
        tokens_per_block=spec.tokens_per_block,
        num_blocks=spec.num_blocks,
        parallel=spec.parallel,
    )
