"""What tensors are called: every file's names become those that Hugging Face gives the text model of its family.

GGUF names are the same for all families but for the norms around attention and MLP, of which Gemma has four.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from trtdisagg.text.dimensions import Architecture

ROPE_FACTORS = "rope_freqs.weight"
"""A tensor that only GGUF files have: what the rotary frequencies are divided by."""

_GGUF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA_NAMES = {
    **_GGUF_NAMES,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_MIXTRAL_NAMES = {
    **_GGUF_NAMES,
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.*.w1",
    "ffn_down_exps": "block_sparse_moe.experts.*.w2",
    "ffn_up_exps": "block_sparse_moe.experts.*.w3",
    "ffn_gate.#": "block_sparse_moe.experts.#.w1",
    "ffn_down.#": "block_sparse_moe.experts.#.w2",
    "ffn_up.#": "block_sparse_moe.experts.#.w3",
}
_QWEN_MOE_NAMES = {
    **_GGUF_NAMES,
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.*.gate_proj",
    "ffn_down_exps": "mlp.experts.*.down_proj",
    "ffn_up_exps": "mlp.experts.*.up_proj",
}
_GPT2_NAMES = {
    "token_embd": "wte",
    "position_embd": "wpe",
    "output_norm": "ln_f",
    "output": "lm_head",
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_OF_FAMILY: dict[Architecture, dict[str, str]] = {
    "gemma2": _GEMMA_NAMES,
    "gemma3": _GEMMA_NAMES,
    "gpt2": _GPT2_NAMES,
    "mixtral": _MIXTRAL_NAMES,
    "qwen3_moe": _QWEN_MOE_NAMES,
}


def name_of_gguf(architecture: Architecture, name: str) -> str:
    """`blk.3.attn_q.weight` -> `model.layers.3.self_attn.q_proj.weight`; an unknown name stays as it is.

    A `*` in the answer stands for all experts, whose matrices are one tensor.
    """
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)(?:\.(\d+))?\.(weight|bias)", name)
    table = _OF_FAMILY.get(architecture, _GGUF_NAMES)
    if not found:
        return name
    layer, part, expert, kind = found.groups()
    known = table.get(part if expert is None else f"{part}.#")
    if known is None:
        return name
    prefix = ("h." if architecture == "gpt2" else "model.layers.") + f"{layer}." if layer else ""
    return f"{prefix}{known.replace('#', expert or '')}.{kind}"


def name_of_safetensors(architecture: Architecture, name: str) -> str | None:
    """The name without what some checkpoints put before it; None: of a part that this is not, or no weight at all."""
    return _PLAIN_NAMES.get(architecture, _plain)(name)


def _plain(name: str) -> str | None:
    return None if name.endswith("rotary_emb.inv_freq") else name


def _gpt2(name: str) -> str | None:
    """The masks are stored with the weights."""
    return None if name.endswith((".attn.bias", ".attn.masked_bias")) else name.removeprefix("transformer.")


def _gemma3(name: str) -> str | None:
    """A model that also sees has its text part below `language_model`, in one order or the other."""
    if re.match(r"(model\.)?(vision_tower|multi_modal_projector)\.", name):
        return None
    return re.sub(r"^language_model\.|(?<=^model\.)language_model\.", "", name)


_PLAIN_NAMES: dict[Architecture, Callable[[str], str | None]] = {"gpt2": _gpt2, "gemma3": _gemma3}
