"""Tiny random models of every family, made by transformers, and what it says they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VOCAB = 101
TOKENS = [(37 * i * i + 11 * i + 3) % VOCAB for i in range(150)]
"""Longer than every window below."""

_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
_EXPERTS = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_SIZES = {"vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12}
_USUAL = {**_SIZES, **_HEADS, "max_position_embeddings": 256, "tie_word_embeddings": True, "initializer_range": 0.2}
_GEMMA = {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 20, "sliding_window": 20}

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama_groups_of_three": (
        "Llama",
        {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 16},
    ),
    "llama_untied": ("Llama", {"tie_word_embeddings": False}),
    "llama_llama3_scaling": ("Llama", {"rope_scaling": _LLAMA3, "rope_theta": 500.0}),
    "llama_linear_scaling": ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama_yarn": ("Llama", {"rope_scaling": _YARN}),
    "llama_yarn_in_detail": ("Llama", {"rope_scaling": {**_YARN, "beta_fast": 8.0, "attention_factor": 0.8}}),
    "llama_dynamic_scaling": ("Llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 4.0}}),
    "llama_biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama_one_kv_head_of_odd_size": (
        "Llama",
        {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 22},
    ),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral_window": ("Mistral", {"sliding_window": 33, "tie_word_embeddings": False}),
    "qwen2": ("Qwen2", {}),
    "qwen2_windows": ("Qwen2", {"use_sliding_window": True, "sliding_window": 17, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"num_attention_heads": 6, "num_key_value_heads": 1}),
    "qwen3_moe": ("Qwen3Moe", {**_EXPERTS, "norm_topk_prob": True}),
    "qwen3_moe_dense_layer": ("Qwen3Moe", {**_EXPERTS, "norm_topk_prob": False, "mlp_only_layers": [1]}),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "sliding_window": None}),
    "mixtral_window": ("Mixtral", {"num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": 40}),
    "gemma2": ("Gemma2", {**_GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("Gemma3", {**_GEMMA, "num_hidden_layers": 7}),
    "gemma3_scaled": (
        "Gemma3",
        {
            **_GEMMA,
            "num_hidden_layers": 3,
            "sliding_window_pattern": 3,
            "num_key_value_heads": 1,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            },
        },
    ),
    "gpt2": ("GPT2", {}),
    "gpt2_wide": ("GPT2", {"n_inner": 100, "activation_function": "gelu", "tie_word_embeddings": False}),
}
_GPT2 = {
    "vocab_size": VOCAB,
    "n_positions": 256,
    "n_embd": 48,
    "n_layer": 2,
    "n_head": 3,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": None,
}


def build(directory: Path, family: str, *, max_shard_size: str = "1GB", **changes: Any) -> Any:
    """Save a model in `directory`, in float32, and return it. Its biases and norms are random too."""
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(1)
    names = {"Gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM"), "GPT2": ("GPT2Config", "GPT2LMHeadModel")}
    config_class, model_class = names.get(family, (f"{family}Config", f"{family}ForCausalLM"))
    config = getattr(transformers, config_class)(**{**(_GPT2 if family == "GPT2" else _USUAL), **changes})
    model = getattr(transformers, model_class)(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter.data, std=0.2)
        elif "norm" in name or "ln_" in name:
            torch.nn.init.normal_(parameter.data, mean=0.0 if "Gemma" in family else 1.0, std=0.2)
    model.save_pretrained(directory, max_shard_size=max_shard_size)
    return model


def reference(model: Any, tokens: list[int]) -> Tensor:
    """Logits of all positions, [len(tokens), vocab]."""
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([tokens])).logits[0].float()
    return logits
