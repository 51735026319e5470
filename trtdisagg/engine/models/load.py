"""From files to a decoder: finds the family that a model's dimensions name, and has it read the weights."""

from __future__ import annotations

from collections.abc import Callable

import torch

from trtdisagg.engine.backend import Backend
from trtdisagg.engine.models.decoder import Decoder
from trtdisagg.engine.models.gemma import gemma
from trtdisagg.engine.models.gpt2 import gpt2
from trtdisagg.engine.models.llama import llama
from trtdisagg.engine.models.mixtral import mixtral
from trtdisagg.engine.models.parts import Parts
from trtdisagg.engine.models.qwen import qwen2, qwen3
from trtdisagg.engine.models.weights import open_weights
from trtdisagg.protocol.parallel import ONE_RANK, Parallel
from trtdisagg.protocol.spec import Quantization
from trtdisagg.text.dimensions import Architecture, ModelDimensions, share_of

FAMILIES: dict[Architecture, Callable[[ModelDimensions, Parts], Decoder]] = {
    "llama": llama,
    "mistral": llama,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "qwen3_moe": qwen3,
    "gemma2": gemma,
    "gemma3": gemma,
    "gpt2": gpt2,
    "mixtral": mixtral,
}


def load_decoder(
    path: str,
    dims: ModelDimensions,
    backend: Backend,
    *,
    num_positions: int,
    quantization: Quantization = "none",
    parallel: Parallel = ONE_RANK,
    rank: int = 0,
) -> Decoder:
    """Read a rank's share of a model's weights, and no more.

    :param path: a directory with safetensors, or a .gguf file.
    :param num_positions: the longest sequence that there is room for; there are no more angles than that.
    :raises StartupError: when a tensor is missing, has another shape or is not of this model; the message names it.
    :raises ConfigError: when the model needs something that is not supported.
    """
    with torch.inference_mode(), open_weights(path, dims, backend.dtype) as source:
        num_positions = min(num_positions, dims.max_positions)
        share = share_of(dims, parallel, rank)
        parts = Parts(source, backend, dims, share, num_positions=num_positions, quantization=quantization)
        decoder = FAMILIES[dims.architecture](dims, parts)
        parts.check_all_used()
    return decoder
