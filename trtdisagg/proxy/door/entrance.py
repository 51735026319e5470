"""What stands between a client and the pages, as far as the spec asks for it: keys, origins, a certificate."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from trtdisagg.config.api_keys import read_api_keys
from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.proxy.door.cors import Cors
from trtdisagg.proxy.door.guard import Guard
from trtdisagg.proxy.door.keys import Keys
from trtdisagg.proxy.door.shared_keys import SharedKeys
from trtdisagg.proxy.door.watched import Watched
from trtdisagg.proxy.http.tls import Tls


class Entrance(msgspec.Struct, kw_only=True, frozen=True):
    """What is None is not asked for."""

    guard: Guard | None = None
    cors: Cors | None = None
    tls: Tls | None = None
    watched: list[Watched] = []
    """Files to be read again when they change."""


OPEN = Entrance()


@contextlib.contextmanager
def open_entrance(spec: ProxySpec, secret: str | None) -> Iterator[Entrance]:
    """
    :raises ConfigError, StartupError: a file cannot be used.
    """
    watched: list[Watched] = []
    guard = tls = shared = None
    if spec.api_keys_file is not None and spec.load_file is not None:
        shared = SharedKeys(spec.load_file, spec.load_column)
    if spec.api_keys_file is not None:
        now, path = asyncio.get_running_loop().time, Path(spec.api_keys_file)
        keys = Keys(read_api_keys(path), now(), shared)
        guard = Guard(keys, secret)
        watched.append(Watched("API keys", (path,), lambda: keys.change(read_api_keys(path), now())))
    if spec.tls is not None:
        tls = Tls(spec.tls)
        watched.append(Watched("certificate and key", (Path(spec.tls.cert_file), Path(spec.tls.key_file)), tls.reload))
    cors = Cors(spec.cors_allow_origins) if spec.cors_allow_origins else None
    try:
        yield Entrance(guard=guard, cors=cors, tls=tls, watched=watched)
    finally:
        if shared is not None:
            shared.close()
