"""The model families: one file each, found by the architecture that a model's dimensions name."""

from __future__ import annotations

from trtdisagg.engine.models.llama import Llama
from trtdisagg.text.dimensions import Architecture

MODELS: dict[Architecture, type[Llama]] = {"llama": Llama}
