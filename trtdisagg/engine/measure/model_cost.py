"""What a model must read and compute for its tokens, and how fast the machine's limits let it. Pure.

The bound is the roofline (Williams, Waterman and Patterson, 2009): a step takes at least

    max(bytes it must read / memory bandwidth,  operations / rate of operations)

A step reads the weights once, whatever the number of its tokens, and the KV of its sequences. A token takes two
operations for each weight it is multiplied with, and four for each element of the queries and each token that it looks
at (Kaplan et al., "Scaling laws for neural language models", 2020, table 1).
"""

from __future__ import annotations

import msgspec

from trtdisagg.protocol.bench import LOADS, Limits, Workload
from trtdisagg.protocol.spec import Dtype, Quantization
from trtdisagg.text.dimensions import ModelDimensions

_WEIGHT_BYTES = {"bfloat16": 2, "float32": 4, "int8": 1}


class ModelCost(msgspec.Struct, kw_only=True, frozen=True):
    """A model's dimensions, in the type it is computed with."""

    dims: ModelDimensions
    dtype: Dtype
    quantization: Quantization = "none"

    def weight_bytes(self, num_tokens: int = 1) -> float:
        """Read by a step of so many tokens; of experts those that are likely to be chosen by one of them."""
        bytes_each = _WEIGHT_BYTES[self.dtype if self.quantization == "none" else self.quantization]
        return bytes_each * (self._num_weights + self._num_expert_weights * self._share_of_experts(num_tokens))

    def step_s(self, limits: Limits, num_sequences: int, context: int) -> float:
        """At least so long takes a step that generates a token for each sequence of `context` tokens."""
        kv_bytes = num_sequences * context * self.dims.kv_bytes_per_token(self.dtype)
        read_s = (self.weight_bytes(num_sequences) + kv_bytes) / (limits.memory_gb_s * 1e9)
        operations = num_sequences * (2 * self._num_active_weights + context * self._operations_per_pair)
        return max(read_s, operations / self._rate(limits))

    def prefill_s(self, limits: Limits, num_prompts: int, isl: int) -> float:
        """At least so long takes it to compute prompts; the last token of each alone becomes logits."""
        head = self.dims.vocab_size * self.dims.hidden_size
        pairs = isl * (isl + 1) / 2
        operations = 2 * isl * (self._num_active_weights - head) + 2 * head + pairs * self._operations_per_pair
        read_s = self.weight_bytes(num_prompts * isl) / (limits.memory_gb_s * 1e9)
        return max(read_s, num_prompts * operations / self._rate(limits))

    def limit_tok_s(self, workload: Workload, limits: Limits) -> float:
        """What can be reached at most, counted as `protocol.bench.Result` does."""
        num, isl, osl, _ = LOADS[workload]
        if workload == "w3":
            return isl / self.prefill_s(limits, 1, isl)
        step_s = self.step_s(limits, num, isl + osl // 2)
        if workload == "w1":
            return 1 / step_s
        return num * osl / (self.prefill_s(limits, num, isl) + (osl - 1) * step_s)

    def _rate(self, limits: Limits) -> float:
        """Operations a second. Weights in 16 or 8 bits are multiplied as floats where that is faster."""
        rates = [limits.gemm_float32_gflop_s, limits.fma_gflop_s or 0.0]
        if self.dtype == "bfloat16":
            rates.append(limits.gemm_bfloat16_gflop_s)
        return max(rates) * 1e9

    @property
    def _operations_per_pair(self) -> int:
        """Of a token and one that it looks at, in all layers."""
        return 4 * self.dims.num_layers * self.dims.num_heads * self.dims.head_dim

    @property
    def _num_active_weights(self) -> float:
        """Those that one token is multiplied with."""
        return self._num_weights + self._num_expert_weights * self._share_of_experts(1)

    @property
    def _num_weights(self) -> int:
        """Without experts, and without an embedding that is only looked up."""
        dims = self.dims
        looked_up = 0 if dims.tie_word_embeddings else dims.vocab_size * dims.hidden_size
        return dims.num_parameters - self._num_expert_weights - looked_up

    @property
    def _num_expert_weights(self) -> int:
        dims = self.dims
        return dims.num_layers * dims.num_experts * 3 * dims.hidden_size * dims.expert_size

    def _share_of_experts(self, num_tokens: int) -> float:
        if not self.dims.num_experts:
            return 0.0
        return 1 - (1 - self.dims.num_active_experts / self.dims.num_experts) ** num_tokens
