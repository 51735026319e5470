"""The file of API keys (`proxy.api_keys_file`): who may ask the proxy, and how much.

    - name: alice                # in logs and metrics; the key itself is nowhere
      hash: blake2b:9f86d0...    # of the key, as `trtdisagg generate api-key alice` prints it
      requests_per_minute: 60    # none: as many as come
      max_in_flight: 8           # likewise

A key is 256 random bits, so one fast hash keeps it: what makes scrypt slow helps where secrets can be guessed, and here
would cost each request, with a right key or a wrong one, tens of milliseconds.
"""

from __future__ import annotations

import hashlib
import secrets
import stat
from pathlib import Path
from typing import Annotated

import msgspec

from trtdisagg.errors import ConfigError

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$"
_PREFIX = "blake2b:"
_PERSON = b"trtdisagg-key"

Limit = Annotated[int, msgspec.Meta(ge=1)]


class ApiKey(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One entry."""

    name: Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
    hash: Annotated[str, msgspec.Meta(pattern=rf"^{_PREFIX}[0-9a-f]{{64}}$")]
    requests_per_minute: Limit | None = None
    max_in_flight: Limit | None = None

    @property
    def digest(self) -> bytes:
        return bytes.fromhex(self.hash.removeprefix(_PREFIX))


def make_api_key(name: str) -> tuple[str, ApiKey]:
    """
    :returns: a new key, and its entry.
    """
    key = f"sk-{secrets.token_urlsafe(32)}"
    return key, ApiKey(name=name, hash=_PREFIX + digest_of(key).hex())


def digest_of(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=32, person=_PERSON).digest()


def read_api_keys(path: Path) -> list[ApiKey]:
    """
    :raises ConfigError: the file cannot be read, others can read it, or it does not hold together.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_bytes()
    except OSError as e:
        raise ConfigError(f"api_keys_file {path} cannot be read: {e.strerror or e}") from None
    if mode & 0o077:
        raise ConfigError(f"api_keys_file {path} can be read by others; `chmod 600` it")
    try:
        keys = msgspec.yaml.decode(text, type=list[ApiKey] | None) or []
    except msgspec.DecodeError as e:
        raise ConfigError(f"api_keys_file {path}: {e}; `trtdisagg generate api-key NAME` prints an entry") from None
    for what in ("name", "hash"):
        values = [getattr(key, what) for key in keys]
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise ConfigError(f"api_keys_file {path}: the {what} {twice} stands there twice")
    return keys
