"""Addresses of OpenTelemetry collectors."""

from __future__ import annotations

import pytest

from trtdisagg.protocol.otlp import check_endpoint


@pytest.mark.parametrize("endpoint", ["http://h:4318", "https://h/v1/traces", "grpc://h:4317", "grpcs://[::1]:4317"])
def test_right_ones(endpoint: str) -> None:
    check_endpoint(endpoint)


@pytest.mark.parametrize("endpoint", ["h:4317", "ftp://h:1", "http://", "grpc://h", "grpc://h:1/path", ""])
def test_wrong_ones(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"4318|gRPC"):
        check_endpoint(endpoint)
