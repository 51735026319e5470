"""Llama and what is built like it: RMS norm, rotary attention with shared KV heads, gated SiLU.

    x -> norm -> qkv -> attention -> o -> + x -> norm -> gate_up -> silu(gate) up -> down -> +        in each layer
    x -> norm -> lm_head                                                                              at the end

Touvron et al., "LLaMA" (2023). Where KV lies is the attention's to know; this file knows weights only.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import embedding

from trtdisagg.engine.attention import Attention
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.models.parts import Parts
from trtdisagg.engine.models.weights import ROPE_FACTORS, WeightSource
from trtdisagg.engine.rowwise import Rowwise, make_rowwise
from trtdisagg.text.dimensions import ModelDimensions


class Llama:
    rope_factors: Tensor | None = None
    """What the weights say the rotary frequencies are divided by; known after `load`."""

    def __init__(self, dims: ModelDimensions, backend: Backend) -> None:
        self._dims = dims
        self._backend = backend

    def load(self, source: WeightSource) -> None:
        """Read the weights.

        :raises StartupError: when one is missing, has another shape or is not of this model; the message names it.
        """
        dims = self._dims
        parts = Parts(source, self._backend)
        self._rowwise = make_rowwise(self._backend)
        self._embedding = parts.tensor("model.embed_tokens.weight", (dims.vocab_size, dims.hidden_size))
        self._layers = [_Layer(dims, parts, self._rowwise, f"model.layers.{i}.") for i in range(dims.num_layers)]
        self._norm = parts.tensor("model.norm.weight", (dims.hidden_size,))
        if dims.tie_word_embeddings:
            self._lm_head = parts.head(self._embedding)
            parts.ignore("lm_head.weight")
        else:
            self._lm_head = parts.head(parts.tensor("lm_head.weight", (dims.vocab_size, dims.hidden_size)))
        if ROPE_FACTORS in source.names:
            self.rope_factors = parts.tensor(ROPE_FACTORS, (dims.head_dim // 2,)).float().cpu()
        parts.check_all_used()

    def forward(self, tokens: Tensor, wanted: Tensor, attention: Attention) -> Tensor:
        """Compute a step.

        :param tokens: [num_tokens], the tokens of all chunks in order.
        :param wanted: the rows whose logits are asked for.
        :param attention: begun for these chunks.
        :return: float32 [len(wanted), vocab_size]
        """
        eps, delta = self._dims.rms_norm_eps, None
        x = embedding(tokens, self._embedding)
        for i, layer in enumerate(self._layers):
            delta = layer.forward(x, delta, i, attention)
        x = self._rowwise.norm(x, self._norm, eps, delta)
        return self._lm_head(x[wanted])


class _Layer:
    def __init__(self, dims: ModelDimensions, parts: Parts, rowwise: Rowwise, prefix: str) -> None:
        width, inner = dims.hidden_size, dims.intermediate_size
        q, kv = dims.num_heads * dims.head_dim, dims.num_kv_heads * dims.head_dim
        attention = [f"{prefix}self_attn.{name}_proj" for name in "qkv"]
        gated = [f"{prefix}mlp.{name}_proj" for name in ("gate", "up")]
        self._rowwise = rowwise
        self._eps = dims.rms_norm_eps
        self._input_norm = parts.tensor(f"{prefix}input_layernorm.weight", (width,))
        self._qkv = parts.linear(attention, [q, kv, kv], width, bias=dims.attention_bias)
        self._o = parts.linear([f"{prefix}self_attn.o_proj"], [width], q, bias=dims.attention_bias)
        self._post_norm = parts.tensor(f"{prefix}post_attention_layernorm.weight", (width,))
        self._gate_up = parts.linear(gated, [inner, inner], width, bias=dims.mlp_bias)
        self._down = parts.linear([f"{prefix}mlp.down_proj"], [width], inner, bias=dims.mlp_bias)

    def forward(self, x: Tensor, delta: Tensor | None, index: int, attention: Attention) -> Tensor:
        """Compute one layer.

        :param x: [tokens, hidden_size], changed in place: all that came before, but for `delta`.
        :param delta: what the layer before gave, still to be added; None in the first.
        :return: what this layer gives, to be added by the next.
        """
        normed = self._rowwise.norm(x, self._input_norm, self._eps, delta)
        delta = self._o(attention.run(index, self._qkv(normed)))
        normed = self._rowwise.norm(x, self._post_norm, self._eps, delta)
        return self._down(self._rowwise.gate(self._gate_up(normed)))
