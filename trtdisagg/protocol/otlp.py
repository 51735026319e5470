"""Addresses of OpenTelemetry collectors: which are right, and whether anything installed can send there."""

from __future__ import annotations

import importlib.util
from urllib.parse import urlsplit

from trtdisagg.errors import StartupError

_MODULES = {"http": "opentelemetry.exporter.otlp.proto.http", "grpc": "opentelemetry.exporter.otlp.proto.grpc"}


def check_endpoint(endpoint: str) -> None:
    """
    :raises ValueError: it is none.
    """
    url = urlsplit(endpoint)
    if url.scheme not in ("http", "https", "grpc", "grpcs") or not url.hostname:
        raise ValueError(f"{endpoint!r} is not http://HOST:4318 or grpc://HOST:4317 (with TLS https, grpcs)")
    if url.scheme.startswith("grpc") and (url.path.strip("/") or url.port is None):
        raise ValueError(f"{endpoint!r}: gRPC takes a host and a port, and no path")


def check_installed(endpoint: str) -> None:
    """
    :raises StartupError: there is nothing installed that could send traces there.
    """
    try:
        is_there = importlib.util.find_spec(_MODULES[endpoint[:4]]) is not None
    except ModuleNotFoundError:
        is_there = False
    if not is_there:
        raise StartupError("otlp_config needs OpenTelemetry, which is not installed: pip install 'trtdisagg[otel]'")
