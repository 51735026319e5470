"""A model's weights, tensor by tensor, as Hugging Face names and shapes them: from safetensors or from a GGUF file.

A tensor, or a part of one, is read when it is asked for and nothing is kept, so that loading needs little more memory
than what is asked for.
Which tensors there must be is the model's to know. Tensors may be read by several threads at once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from trtdisagg.engine.models.cuts import Part
from trtdisagg.engine.models.names import name_of_safetensors
from trtdisagg.errors import StartupError
from trtdisagg.text.dimensions import Architecture, ModelDimensions
from trtdisagg.text.json_file import read_json


class WeightSource(Protocol):
    names: set[str]
    """Of all tensors in the files."""

    def shape(self, name: str) -> list[int]:
        """Of the whole tensor."""

    def read(self, name: str, part: Part | None = None) -> Tensor:
        """A tensor, or a part of it, on the CPU, in the file's precision, or in the type asked for where that is
        quantized."""


@contextmanager
def open_weights(path: str, dims: ModelDimensions, dtype: torch.dtype) -> Iterator[WeightSource]:
    """Open the weights of a directory with safetensors, or of a .gguf file.

    :param dtype: what quantized numbers become.
    :raises StartupError: when a file is missing or damaged.
    """
    with contextlib.ExitStack() as files:
        if Path(path).is_dir():
            yield SafetensorsWeights(Path(path), dims.architecture, files)
        else:
            from trtdisagg.engine.models.gguf_weights import GgufWeights

            yield GgufWeights(path, dims, dtype)


class SafetensorsWeights:
    """All tensors of a directory; a checkpoint in several files has an index of them."""

    def __init__(self, path: Path, architecture: Architecture, files: contextlib.ExitStack) -> None:
        from safetensors import SafetensorError, safe_open

        self._places = {}
        for file in _checkpoint_files(path):
            try:
                opened = files.enter_context(safe_open(file, framework="pt"))
            except (OSError, SafetensorError) as e:
                raise StartupError(f"The weights {file} cannot be read: {e}") from e
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                if (plain := name_of_safetensors(architecture, name)) is not None:
                    self._places[plain] = (opened, name)
        self.names = set(self._places)

    def shape(self, name: str) -> list[int]:
        file, stored_name = self._places[name]
        return list(file.get_slice(stored_name).get_shape())

    def read(self, name: str, part: Part | None = None) -> Tensor:
        file, stored_name = self._places[name]
        if part is None or [len(r) for r in part] == self.shape(name):
            tensor: Tensor = file.get_tensor(stored_name)
        else:
            tensor = file.get_slice(stored_name)[tuple(slice(r.start, r.stop) for r in part)]
        return tensor


def _checkpoint_files(path: Path) -> list[Path]:
    """A directory may hold the same weights in another form beside those that count."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        try:
            return sorted({path / file for file in read_json(index)["weight_map"].values()})
        except (KeyError, TypeError, AttributeError) as e:
            raise StartupError(f"{index} does not say which file holds which tensor") from e
    single = path / "model.safetensors"
    return [single] if single.exists() else sorted(path.glob("*.safetensors"))
