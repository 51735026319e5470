"""Where an agent registers its servers, beside telling its own proxy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from trtdisagg.config.supervisor_keys import DisaggCluster
from trtdisagg.config.uri import ClusterUri, parse_uri
from trtdisagg.net import is_loopback
from trtdisagg.protocol.control import Member
from trtdisagg.registry.registrar import Registrar
from trtdisagg.supervisor.plan import Plan

_FILES = ("password_file", "ca_file", "cert_file", "key_file")


def with_whole_paths(config: DisaggCluster, directory: Path) -> DisaggCluster:
    """:param directory: what its paths are relative to."""
    named = {key: value for key in _FILES if (value := getattr(config, key)) is not None}
    return replace(
        config, **{key: str((directory / Path(value).expanduser()).absolute()) for key, value in named.items()}
    )


def registrar_for(plan: Plan, on_problem: Callable[[str], None]) -> Registrar | None:
    """The registrar of an agent's servers; None: its own proxy is told of them, and nobody else looks.

    :param on_problem: told when the store stops or begins to work.
    :raises ConfigError, StartupError: a file that is needed cannot be used.
    """
    from trtdisagg.registry.open import open_metadata_registrar, open_registrar  # who only plans does without aiohttp

    if plan.metadata is not None:
        return open_metadata_registrar(plan.metadata, on_problem)
    if plan.registry is None or (plan.proxy is not None and parse_uri(plan.registry.uri).kind == "proxy"):
        return None
    return open_registrar(
        plan.registry,
        secret_file=plan.secret_file,
        is_for_others=functools.partial(_is_for_others, parse_uri(plan.registry.uri)),
        on_problem=on_problem,
    )


def _is_for_others(uri: ClusterUri, member: Member) -> bool:
    """A loopback address means another server to whoever reads it on another host."""
    return not is_loopback(_host(member.url)) or all(is_loopback(_host(e)) for e in uri.endpoints)


def _host(url: str) -> str:
    return url.rpartition("//")[2].rpartition(":")[0].strip("[]")
