"""Where an agent registers its servers, beside telling its own proxy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from trtdisagg.config.schema import DisaggCluster
from trtdisagg.config.uri import parse_uri
from trtdisagg.protocol.spec import RegistrySpec
from trtdisagg.registry.open import open_registrar
from trtdisagg.registry.registrar import Registrar

_FILES = ("password_file", "ca_file", "cert_file", "key_file")


def with_whole_paths(config: DisaggCluster, directory: Path) -> DisaggCluster:
    """:param directory: what its paths are relative to."""
    named = {key: value for key in _FILES if (value := getattr(config, key)) is not None}
    return replace(
        config, **{key: str((directory / Path(value).expanduser()).absolute()) for key, value in named.items()}
    )


def registrar_for(
    registry: RegistrySpec | None,
    *,
    has_proxy: bool,
    secret_file: str | None,
    on_problem: Callable[[str], None] = lambda _: None,
) -> Registrar | None:
    """The registrar of an agent's servers; None: its own proxy is told of them, and nobody else looks.

    :raises ConfigError, StartupError: a file that is needed cannot be used.
    """
    if registry is None or (has_proxy and parse_uri(registry.uri).kind == "proxy"):
        return None
    return open_registrar(registry, secret_file=secret_file, on_problem=on_problem)
