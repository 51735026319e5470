from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest

from trtdisagg.protocol.spec import SamplingDefaults
from trtdisagg.text.model_files import ModelFiles
from trtdisagg.text.sampling_defaults import read_sampling_defaults

PLAIN = SamplingDefaults(temperature=1.0, top_p=1.0, top_k=0)


def directory(path: Path, config: dict[str, object] | None) -> ModelFiles:
    if config is not None:
        (path / "generation_config.json").write_text(json.dumps(config))
    return ModelFiles(name=str(path), path=str(path), format="safetensors", served_name="m")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, PLAIN),
        ({"eos_token_id": 2}, PLAIN),
        ({"do_sample": False}, SamplingDefaults(temperature=0.0)),
        ({"do_sample": True, "temperature": 0.6, "top_k": 20}, SamplingDefaults(temperature=0.6, top_k=20)),
    ],
)
def test_directory(tmp_path: Path, config: dict[str, object] | None, expected: SamplingDefaults) -> None:
    assert read_sampling_defaults(directory(tmp_path, config)) == expected


def gguf_file(path: Path, name: str, temperature: float | None) -> ModelFiles:
    writer = gguf.GGUFWriter(path / "m.gguf", "llama")
    if temperature is not None:
        writer.add_float32("general.sampling.temp", temperature)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return ModelFiles(name=name, path=str(path / "m.gguf"), format="gguf", served_name="m")


def test_gguf(tmp_path: Path) -> None:
    assert read_sampling_defaults(gguf_file(tmp_path, "m.gguf", 0.5)) == SamplingDefaults(temperature=0.5)


def test_what_a_file_says_goes_before_the_table(tmp_path: Path) -> None:
    alias = "smollm2-135m-instruct"
    assert read_sampling_defaults(gguf_file(tmp_path, alias, 0.5)).temperature == 0.5
    assert read_sampling_defaults(gguf_file(tmp_path, alias, None)) == SamplingDefaults(temperature=0.0)
