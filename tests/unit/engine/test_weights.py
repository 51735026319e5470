"""The same model from safetensors, from several files and from GGUF; and files that are not the model they claim."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from helpers import tiny_llama
from helpers.tiny_runner import drive
from safetensors.torch import load_file, save_file
from torch import Tensor

from trtdisagg.engine.models.weights import open_weights
from trtdisagg.errors import StartupError
from trtdisagg.text.dimensions import read_dimensions
from trtdisagg.text.model_files import files_at

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 89, 79]
GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "lm_head": "output",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    tiny_llama.build(directory)
    return directory


def logits(path: Path) -> Tensor:
    with drive(path) as driver:
        sequence = driver.add()
        return torch.cat([driver.step((sequence, PROMPT[:-1])), driver.step((sequence, PROMPT[-1:]))])


def write_gguf(directory: Path, target: Path, *, factors: Tensor | None = None, kind: Any = None) -> Path:
    """What llama.cpp's conversion makes of a Llama: other names, and the rows of q and k interleaved."""
    dims = read_dimensions(files_at(directory))
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_block_count(dims.num_layers)
    writer.add_embedding_length(dims.hidden_size)
    writer.add_feed_forward_length(dims.intermediate_size)
    writer.add_head_count(dims.num_heads)
    writer.add_head_count_kv(dims.num_kv_heads)
    writer.add_context_length(dims.max_positions)
    writer.add_layer_norm_rms_eps(dims.rms_norm_eps)
    writer.add_rope_freq_base(dims.rope_theta)
    for name, tensor in load_file(directory / "model.safetensors").items():
        layer, rest = re.fullmatch(r"(?:model\.layers\.(\d+)\.)?(.*)\.weight", name).groups()
        heads = {"self_attn.q_proj": dims.num_heads, "self_attn.k_proj": dims.num_kv_heads}.get(rest)
        rows = interleaved(tensor, heads) if heads else tensor
        values, stored = rows.numpy(), gguf.GGMLQuantizationType.F32
        if kind is not None and values.ndim == 2:
            values, stored = gguf.quants.quantize(values, kind), kind
        writer.add_tensor(f"{f'blk.{layer}.' if layer else ''}{GGUF_NAMES[rest]}.weight", values, raw_dtype=stored)
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", factors.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def interleaved(rows: Tensor, num_heads: int) -> Tensor:
    """As `LlamaModel.permute` of llama.cpp's convert_hf_to_gguf.py says it."""
    halves = rows.reshape(num_heads, 2, rows.shape[0] // num_heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape).contiguous()


def test_a_gguf_file_is_the_same_model(model: Path, tmp_path: Path) -> None:
    path = write_gguf(model, tmp_path / "model.gguf")
    torch.testing.assert_close(logits(path), logits(model), atol=1e-5, rtol=0)


def test_quantized_tensors_are_near(model: Path, tmp_path: Path) -> None:
    path = write_gguf(model, tmp_path / "model.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
    with open_weights(str(path), read_dimensions(files_at(path))) as quantized:
        original = load_file(model / "model.safetensors")
        assert quantized.names == set(original)
        for name, tensor in original.items():
            assert (quantized.read(name) - tensor).abs().max() <= tensor.abs().max() / 127


def test_frequency_factors_divide_the_rotary_frequencies(model: Path, tmp_path: Path) -> None:
    ones, twos = torch.ones(8), torch.full((8,), 2.0)
    plain, halved = (logits(write_gguf(model, tmp_path / f"{f[0]}.gguf", factors=f)) for f in (ones, twos))
    torch.testing.assert_close(plain, logits(model), atol=1e-5, rtol=0)
    config = (model / "config.json").read_text()
    scaled = config.replace('"rope_type": "default"', '"rope_type": "linear", "factor": 2.0')
    assert scaled != config
    (model / "config.json").write_text(scaled)
    torch.testing.assert_close(halved, logits(model), atol=1e-5, rtol=0)


def test_a_checkpoint_in_several_files(model: Path, tmp_path: Path) -> None:
    expected = logits(model)
    whole = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    parts = {"a.safetensors": sorted(whole)[::2], "b.safetensors": sorted(whole)[1::2]}
    for file, names in parts.items():
        save_file({n: whole[n] for n in names}, model / file)
    assert torch.equal(logits(model), expected)
    index = "{" + ", ".join(f'"{n}": "{file}"' for file, names in parts.items() for n in names) + "}"
    (model / "model.safetensors.index.json").write_text(f'{{"weight_map": {index}}}')
    save_file({"something.else": torch.ones(1)}, model / "consolidated.safetensors")
    assert torch.equal(logits(model), expected)


def change(model: Path, **tensors: Tensor | None) -> None:
    """Replace tensors of the checkpoint; None takes one out."""
    file = model / "model.safetensors"
    changed = {**load_file(file), **{name.replace("__", "."): t for name, t in tensors.items()}}
    save_file({name: t for name, t in changed.items() if t is not None}, file)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"model__layers__1__mlp__up_proj__weight": None}, r"lack the tensor model\.layers\.1\.mlp\.up_proj\.weight"),
        (
            {"model__layers__2__self_attn__k_proj__weight": torch.ones(16, 64)},
            r"model\.layers\.2\.self_attn\.k_proj\.weight has shape \[16, 64\], but the model needs \[32, 64\]",
        ),
        ({"model__layers__3__mlp__up_proj__weight": torch.ones(96, 64)}, r"does not have: model\.layers\.3\.mlp\.up"),
        ({"model__layers__0__self_attn__q_proj__bias": torch.ones(64)}, r"does not have: .*q_proj\.bias"),
    ],
)
def test_what_is_not_this_model_is_named(model: Path, tensors: dict[str, Tensor | None], message: str) -> None:
    change(model, **tensors)
    with pytest.raises(StartupError, match=message):
        logits(model)


def test_leftovers_that_change_nothing_are_let_be(model: Path) -> None:
    expected = logits(model)
    change(model, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(8))
    assert torch.equal(logits(model), expected)


def test_damaged_safetensors(model: Path) -> None:
    file = model / "model.safetensors"
    header = struct.unpack("<Q", file.read_bytes()[:8])[0]
    file.write_bytes(file.read_bytes()[: header + 100])
    with pytest.raises(StartupError, match=r"model\.safetensors cannot be read"):
        logits(model)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_damaged_index(model: Path, index: str) -> None:
    (model / "model.safetensors.index.json").write_text(index)
    with pytest.raises(StartupError, match=r"model\.safetensors\.index\.json"):
        logits(model)


def test_a_projection_of_another_height_is_named(model: Path, tmp_path: Path) -> None:
    change(model, model__layers__0__self_attn__k_proj__weight=torch.ones(32, 64))
    path = write_gguf(model, tmp_path / "model.gguf")
    data = path.read_bytes()
    name = b"blk.0.attn_k.weight" + struct.pack("<IQ", 2, 64)
    path.write_bytes(data.replace(name + struct.pack("<Q", 32), name + struct.pack("<Q", 31)))
    with pytest.raises(StartupError, match=r"self_attn\.k_proj\.weight has shape \[31, 64\]"):
        logits(path)


def test_an_unknown_quantization_is_named(model: Path, tmp_path: Path) -> None:
    path = write_gguf(model, tmp_path / "model.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
    data = bytearray(path.read_bytes())
    at = data.index(b"blk.1.ffn_up.weight") + len(b"blk.1.ffn_up.weight") + 4 + 16
    assert data[at : at + 4] == np.int32(gguf.GGMLQuantizationType.Q8_0).tobytes()
    data[at : at + 4] = np.int32(999).tobytes()
    path.write_bytes(data)
    with pytest.raises(StartupError, match=r"blk\.1\.ffn_up\.weight cannot be read"):
        logits(path)
