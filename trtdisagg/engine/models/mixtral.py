"""Mixtral: Mistral with experts, of which each token sees two. Jiang et al., "Mixtral of Experts" (2024)."""

from __future__ import annotations

from trtdisagg.engine.models.decoder import Decoder, Layer
from trtdisagg.engine.models.parts import Parts
from trtdisagg.engine.models.usual import experts, layer_name, usual_decoder, usual_layer, usual_rope
from trtdisagg.text.dimensions import ModelDimensions


def mixtral(dims: ModelDimensions, parts: Parts) -> Decoder:
    rope = usual_rope(dims, parts)

    def layer(i: int) -> Layer:
        mlp = experts(dims, parts, f"{layer_name(i)}block_sparse_moe.", ("w1", "w3", "w2"))
        return usual_layer(dims, parts, i, rope=rope, mlp=mlp)

    return usual_decoder(dims, parts, parts.each_layer(layer_name, layer))
