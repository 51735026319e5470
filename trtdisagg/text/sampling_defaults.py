"""How a model's makers recommend to sample from it: what a request that does not say gets.

From a directory's generation_config.json or a GGUF file's `general.sampling.*`, or, where those say nothing, from the
table of aliases.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trtdisagg.protocol.spec import SamplingDefaults
from trtdisagg.text.gguf_header import read_gguf_header
from trtdisagg.text.json_file import read_json
from trtdisagg.text.model_files import ModelFiles

_OF_ALIAS = {"smollm2-135m-instruct": SamplingDefaults(temperature=0.0)}
"""So small a model in four bits holds its first choice and little else: sampled even at 0.2 it answers a question about
France with endless nonsense in French every second time."""
_GGUF_KEYS = {"temperature": "temp", "top_p": "top_p", "top_k": "top_k"}


def read_sampling_defaults(files: ModelFiles) -> SamplingDefaults:
    """
    :raises StartupError: when a file is there and cannot be read.
    """
    said = _from_gguf(files) if files.format == "gguf" else _from_directory(files)
    known = {name: value for name in _GGUF_KEYS if (value := said.get(name)) is not None}
    if not known:
        return _OF_ALIAS.get(files.name, SamplingDefaults())
    return SamplingDefaults(**known)


def _from_directory(files: ModelFiles) -> dict[str, Any]:
    path = Path(files.path) / "generation_config.json"
    config = read_json(path) if path.is_file() else {}
    return {"temperature": 0.0} if config.get("do_sample") is False else config


def _from_gguf(files: ModelFiles) -> dict[str, Any]:
    metadata = read_gguf_header(files.path).metadata
    return {name: metadata.get(f"general.sampling.{key}") for name, key in _GGUF_KEYS.items()}
