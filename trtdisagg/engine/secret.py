"""The cluster's secret, as a file has it."""

from __future__ import annotations

from pathlib import Path

from trtdisagg.errors import StartupError


def read_secret(path: str | None) -> bytes:
    """
    :return: empty without a file.
    :raises StartupError: when it cannot be read, or nothing is in it.
    """
    if path is None:
        return b""
    try:
        secret = Path(path).read_bytes().strip()
    except OSError as e:
        raise StartupError(f"the secret file {path} cannot be read: {e.strerror or e}") from e
    if not secret:
        raise StartupError(f"the secret file {path} is empty")
    return secret
