"""What a model is, read from its files; and files that would be computed wrongly. (Its logits: test_models.py.)"""

from __future__ import annotations

import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file

from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.text.dimensions import ModelDimensions, read_dimensions
from trtdisagg.text.gguf_header import read_gguf_header
from trtdisagg.text.model_files import files_at, resolve_model

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 5000,
}


def directory(path: Path, **changes: object) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps({**CONFIG, **changes}))
    save_file({"a": np.zeros((3, 4), np.float32), "b": np.ones(7, np.float16)}, path / "model.safetensors")
    return path


def gguf_file(path: Path, architecture: str = "llama", **more: int | str) -> Path:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_embedding_length(16)
    writer.add_feed_forward_length(32)
    writer.add_head_count(4)
    writer.add_context_length(64)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_array("tokenizer.ggml.tokens", ["a", "é", "🎉"])
    writer.add_array("some.numbers", [1, -2, 3])
    for key, value in more.items():
        add = writer.add_string if isinstance(value, str) else writer.add_uint32
        add(key.replace("_DOT_", "."), value)
    writer.add_tensor("token_embd.weight", np.arange(48, dtype=np.float32).reshape(3, 16))
    writer.add_tensor("output.weight", np.ones((3, 16), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def dimensions(path: Path) -> ModelDimensions:
    return read_dimensions(files_at(path))


@pytest.mark.real_model
def test_the_real_model() -> None:
    dims = read_dimensions(resolve_model("smollm2-135m-instruct"))
    assert (dims.num_layers, dims.num_heads, dims.num_kv_heads, dims.head_dim) == (30, 9, 3, 64)
    assert (dims.num_parameters, dims.rope_theta, dims.tie_word_embeddings) == (134_515_008, 1e5, True)
    assert dims.kv_bytes_per_token("bfloat16") * 32 == 720 * 1024


# --- what it is -----------------------------------------------------------------------------------------------------


def test_directory_dimensions(tmp_path: Path) -> None:
    dims = dimensions(directory(tmp_path))
    assert (dims.head_dim, dims.num_kv_heads, dims.rope_theta, dims.num_parameters) == (4, 2, 5000.0, 19)
    assert not dims.tie_word_embeddings
    assert dims.rope_scaling is None
    assert dims.kv_bytes_per_token("float32") == 2 * 2 * 2 * 4 * 4


def test_rope_in_its_newer_form(tmp_path: Path) -> None:
    plain = {"rope_theta": 7.0, "rope_type": "default"}
    assert dimensions(directory(tmp_path, rope_parameters=plain)).rope_scaling is None
    assert dimensions(directory(tmp_path, rope_parameters=plain)).rope_theta == 7.0
    scaled = dimensions(directory(tmp_path, rope_scaling={"type": "linear", "factor": 2.0})).rope_scaling
    assert scaled == {
        "type": "linear",
        "rope_type": "linear",
        "factor": 2.0,
        "original_max_position_embeddings": 64,
    }


def test_gguf_dimensions_as_another_writer_wrote_them(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "m.gguf")
    dims = dimensions(path)
    assert (dims.num_layers, dims.num_kv_heads, dims.vocab_size, dims.num_parameters) == (2, 4, 3, 96)
    assert not dims.tie_word_embeddings
    header = read_gguf_header(str(path))
    assert header.metadata["tokenizer.ggml.tokens"] == ["a", "é", "🎉"]
    assert header.metadata["some.numbers"] == [1, -2, 3]
    tensor = header.tensors["token_embd.weight"]
    data = np.fromfile(path, np.float32, count=48, offset=tensor.offset).reshape(tensor.shape)
    assert np.array_equal(data, np.arange(48).reshape(3, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["MambaForCausalLM"]},
            "MambaForCausalLM, which is not supported; supported: LlamaForCausalLM, MistralForCausalLM",
        ),
        ({"hidden_act": "relu"}, "the activation relu is not supported; supported: silu"),
        ({"partial_rotary_factor": 0.5}, "partial rotary"),
        (
            {"architectures": ["Qwen3ForCausalLM"], "use_sliding_window": True, "layer_types": ["chunked"]},
            "type chunked",
        ),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx: True is not supported"),
        ({"use_bidirectional_attention": True}, "use_bidirectional_attention: True is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
    ],
)
def test_directories_that_would_be_computed_wrongly(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dimensions(directory(tmp_path, **changes))


def test_gguf_that_would_be_computed_wrongly(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="architecture mamba, which is not supported; supported: llama, qwen2"):
        dimensions(gguf_file(tmp_path / "g.gguf", "mamba"))
    with pytest.raises(ConfigError, match="one of 3 parts"):
        dimensions(gguf_file(tmp_path / "s.gguf", split_DOT_count=3))


def test_gguf_scaling_that_would_be_computed_wrongly(tmp_path: Path) -> None:
    path = gguf_file(
        tmp_path / "m.gguf", llama_DOT_rope_DOT_scaling_DOT_type="yarn", llama_DOT_rope_DOT_scaling_DOT_alpha=2
    )
    with pytest.raises(ConfigError, match="a rope scaling with alpha is not supported"):
        dimensions(path)


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"architectures": ["LlamaForCausalLM"], "sliding_window": 8}, []),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 8}, [8, 8]),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": None}, []),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 64}, []),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 8}, []),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "sliding_window": 8,
                "use_sliding_window": True,
                "max_window_layers": 1,
            },
            [None, 8],
        ),
        ({"architectures": ["Gemma2ForCausalLM"], "sliding_window": 8}, [8, None]),
        ({"architectures": ["Gemma3ForCausalLM"], "sliding_window": 8}, [8, 8]),
        ({"architectures": ["Gemma3ForCausalLM"], "sliding_window": 8, "sliding_window_pattern": 2}, [8, None]),
    ],
)
def test_windows(tmp_path: Path, changes: dict[str, object], windows: list[int | None]) -> None:
    assert dimensions(directory(tmp_path, **changes)).windows == windows


def test_a_configuration_that_leaves_out_what_its_family_has(tmp_path: Path) -> None:
    said = {"architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {"hidden_size": 9, "hidden_act": "x"}}
    text = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 7, "sliding_window": 1024}
    text |= {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    (tmp_path / "config.json").write_text(json.dumps({**said, "text_config": text}))
    save_file({"a": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    dims = dimensions(tmp_path)
    assert (dims.num_heads, dims.num_kv_heads, dims.head_dim, dims.max_positions) == (8, 4, 256, 131072)
    assert (dims.rope_theta, dims.local_rope_theta, dims.activation) == (1e6, 1e4, "gelu_tanh")
    assert dims.windows == [1024] * 5 + [None, 1024]
    assert dims.tie_word_embeddings
    assert dims.rope_scaling is not None


@pytest.mark.parametrize("size", [0, 3, 20, 200])
def test_damaged_gguf(tmp_path: Path, size: int) -> None:
    path = gguf_file(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(StartupError, match="not a GGUF file that can be read"):
        dimensions(path)


@pytest.mark.parametrize(
    "value",
    [
        struct.pack("<II", 4, 0),
        struct.pack("<IQ", 8, 1) + b"x",
        struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000,
        struct.pack("<IIQ", 9, 12, 2**63),
    ],
)
def test_gguf_with_a_value_that_makes_no_sense(tmp_path: Path, value: bytes) -> None:
    path = tmp_path / "m.gguf"
    key = b"general.alignment"
    path.write_bytes(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, len(key)) + key + value)
    with pytest.raises(StartupError, match="not a GGUF file that can be read"):
        dimensions(path)


def test_damaged_directory(tmp_path: Path) -> None:
    path = directory(tmp_path)
    (path / "model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(StartupError, match="damaged"):
        dimensions(path)
    (path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    with pytest.raises(StartupError, match="does not say its num_hidden_layers"):
        dimensions(path)


def test_bytes_of_weights(tmp_path: Path) -> None:
    untied, tied = (
        dimensions(gguf_file(tmp_path / "m.gguf")),
        dimensions(directory(tmp_path / "t", tie_word_embeddings=True)),
    )
    assert untied.weight_bytes("float32") == 4 * 96
    assert untied.weight_bytes("bfloat16", "int8") == 2 * 48 + 51
    assert tied.weight_bytes("bfloat16", "int8") == 2 * 1600 + 20


# --- fingerprint ----------------------------------------------------------------------------------------------------


def test_fingerprint_is_of_the_contents_not_the_place(tmp_path: Path) -> None:
    one, two = directory(tmp_path / "one"), directory(tmp_path / "two")
    assert dimensions(one).fingerprint == dimensions(two).fingerprint
    assert dimensions(directory(two, rope_theta=1.0)).fingerprint != dimensions(one).fingerprint
    file = gguf_file(tmp_path / "a.gguf")
    renamed = file.rename(tmp_path / "b.gguf")
    before = dimensions(renamed).fingerprint
    data = bytearray(renamed.read_bytes())
    data[-1] ^= 1
    renamed.write_bytes(data)
    assert dimensions(renamed).fingerprint != before
