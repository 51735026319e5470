"""The same model from safetensors, from several files and from GGUF; and files that are not the model they claim."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from helpers import tiny_llama
from helpers.gguf_files import write_gguf
from helpers.tiny_runner import drive
from safetensors.torch import load_file, save_file
from torch import Tensor

from trtdisagg.engine.models.weights import open_weights
from trtdisagg.errors import StartupError
from trtdisagg.text.dimensions import read_dimensions
from trtdisagg.text.model_files import files_at

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 89, 79]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    tiny_llama.build(directory)
    return directory


def logits(path: Path) -> Tensor:
    with drive(path) as driver:
        sequence = driver.add()
        return torch.cat([driver.step((sequence, PROMPT[:-1])), driver.step((sequence, PROMPT[-1:]))])


def test_quantized_tensors_are_near(model: Path, tmp_path: Path) -> None:
    path = write_gguf(model, tmp_path / "model.gguf", kind=gguf.GGMLQuantizationType.Q8_0)
    with open_weights(str(path), read_dimensions(files_at(path)), torch.float32) as quantized:
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
