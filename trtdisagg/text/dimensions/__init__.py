"""What a model is, in numbers, read from its configuration and the headers of its weights in a fraction of a second."""

from __future__ import annotations

from pathlib import Path

from trtdisagg.errors import StartupError
from trtdisagg.text.dimensions.directory import dimensions_of_directory
from trtdisagg.text.dimensions.gguf import dimensions_of_gguf
from trtdisagg.text.dimensions.layout import kv_layout
from trtdisagg.text.dimensions.share import (
    Share,
    division_problems,
    kv_bytes_per_token_of_rank,
    share_of,
    weight_bytes_of_rank,
)
from trtdisagg.text.dimensions.values import Activation, Architecture, ModelDimensions
from trtdisagg.text.model_files import ModelFiles

__all__ = [
    "Activation",
    "Architecture",
    "ModelDimensions",
    "Share",
    "division_problems",
    "kv_bytes_per_token_of_rank",
    "kv_layout",
    "read_dimensions",
    "share_of",
    "weight_bytes_of_rank",
]


def read_dimensions(files: ModelFiles) -> ModelDimensions:
    """Read what a model is.

    :raises StartupError: when files are missing or damaged.
    :raises ConfigError: when it is a model that is not supported.
    """
    path = Path(files.path)
    try:
        return dimensions_of_gguf(path) if files.format == "gguf" else dimensions_of_directory(path)
    except KeyError as e:
        raise StartupError(f"The model {path} does not say its {e.args[0]}") from e
    except (TypeError, ValueError) as e:
        raise StartupError(f"The model {path} describes itself with a value that makes no sense: {e}") from e
    except OSError as e:
        raise StartupError(f"The model {path} cannot be read: {e}") from e
