"""How the config.json of each family differs: what it calls things, what it leaves out, what it may not say.

A configuration leaves out what is as its family's class has it, so those defaults are written down here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trtdisagg.errors import ConfigError
from trtdisagg.text.dimensions.values import Architecture

ARCHITECTURES: dict[str, Architecture] = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3_moe",
    "Gemma2ForCausalLM": "gemma2",
    "Gemma3ForCausalLM": "gemma3",
    "Gemma3ForConditionalGeneration": "gemma3",
    "GPT2LMHeadModel": "gpt2",
    "MixtralForCausalLM": "mixtral",
}

_GEMMA = {
    "hidden_activation": "gelu_pytorch_tanh",
    "tie_word_embeddings": True,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "rms_norm_eps": 1e-6,
}
_DEFAULTS: dict[Architecture, dict[str, Any]] = {
    "mistral": {"sliding_window": 4096},
    "qwen2": {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28},
    "qwen3": {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28, "head_dim": 128},
    "qwen3_moe": {
        "use_sliding_window": False,
        "sliding_window": 4096,
        "norm_topk_prob": False,
        "decoder_sparse_step": 1,
    },
    "mixtral": {"rope_theta": 1e6},
    "gemma2": {**_GEMMA, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3": {
        **_GEMMA,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
    },
    "gpt2": {"tie_word_embeddings": True, "activation_function": "gelu_new", "n_positions": 1024},
}
_OTHER_NAMES = {
    "n_layer": "num_hidden_layers",
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "rms_norm_eps",
    "activation_function": "hidden_act",
    "hidden_activation": "hidden_act",
    "num_local_experts": "num_experts",
}
_MAY_BE_NONE = ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping")
"""Here null says that there is none; elsewhere it says nothing."""
_REFUSED: dict[str, tuple[Any, ...]] = {
    "use_bidirectional_attention": (True, "all", "vision"),
    "scale_attn_by_inverse_layer_idx": (True,),
    "scale_attn_weights": (False,),
    "add_cross_attention": (True,),
}
"""Keys and values that would have to change what is computed."""


def plain_config(architecture: Architecture, raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """The configuration of the text model with one name for each thing, its defaults and its `layer_types` filled in.

    :raises ConfigError: when it says something that would be computed wrongly.
    """
    raw = {**raw, **raw.get("text_config", {})}
    _refuse(raw, path)
    defaults = _DEFAULTS.get(architecture, {})
    said = {**defaults, **{key: value for key, value in raw.items() if value is not None or key in _MAY_BE_NONE}}
    config = {_OTHER_NAMES.get(key, key): value for key, value in said.items()}
    config.setdefault("hidden_act", "silu")
    if architecture == "gpt2":
        config.setdefault("intermediate_size", 4 * config["hidden_size"])
    if architecture == "mixtral":
        config["moe_intermediate_size"] = config["intermediate_size"]
    if architecture == "qwen3_moe":
        config["mlp_only_layers"] = _dense_layers(config)
    config["layer_types"] = _layer_types(architecture, config)
    return config


def _refuse(raw: dict[str, Any], path: Path) -> None:
    if raw.get("quantization_config"):
        raise ConfigError(f"{path}: quantized safetensors are not supported; take the model's bfloat16 form, or a GGUF")
    for key, values in _REFUSED.items():
        if raw.get(key) in values:
            raise ConfigError(f"{path}: {key}: {raw[key]} is not supported")


def _dense_layers(config: dict[str, Any]) -> list[int]:
    sparse_step, listed = config["decoder_sparse_step"], config.get("mlp_only_layers") or []
    return [i for i in range(config["num_hidden_layers"]) if i in listed or (i + 1) % sparse_step]


def _layer_types(architecture: Architecture, config: dict[str, Any]) -> list[str]:
    """`sliding_attention` or `full_attention` of each layer. Families that have both kinds may list them."""
    num_layers = config["num_hidden_layers"]
    if architecture in ("llama", "gpt2") or not config.get("use_sliding_window", True):
        return ["full_attention"] * num_layers
    if architecture in ("mistral", "mixtral", "qwen3_moe"):
        return ["sliding_attention"] * num_layers
    if "layer_types" in config:
        return list(config["layer_types"])
    if architecture in ("qwen2", "qwen3"):
        are_full = [i < config["max_window_layers"] for i in range(num_layers)]
    else:
        period = 2 if architecture == "gemma2" else _gemma3_period(config)
        are_full = [(i + 1) % period == 0 for i in range(num_layers)]
    return ["full_attention" if is_full else "sliding_attention" for is_full in are_full]


def _gemma3_period(config: dict[str, Any]) -> int:
    return int(config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6)
