"""Reads the JSON files of a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from trtdisagg.errors import StartupError


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    :raises StartupError: when it is not there or is no JSON object.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except OSError as e:
        raise StartupError(f"{path} cannot be read: {e.strerror}") from e
    except msgspec.DecodeError as e:
        raise StartupError(f"{path} is not a JSON object: {e}") from e
