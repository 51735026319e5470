"""Which addresses a `cluster_uri` means."""

from __future__ import annotations

import pytest

from trtdisagg.config.uri import ClusterUri, parse_uri


@pytest.mark.parametrize(
    ("text", "kind", "endpoints"),
    [
        ("http://h:8000", "proxy", ("http://h:8000",)),
        ("http://[::1]:8000/", "proxy", ("http://[::1]:8000",)),
        ("https://h:8000", "proxy", ("https://h:8000",)),
        ("etcd://h", "etcd", ("http://h:2379",)),
        ("etcds://h:1", "etcd", ("https://h:1",)),
        ("etcd://a:1,etcd://b:2,c", "etcd", ("http://a:1", "http://b:2", "http://c:2379")),
    ],
)
def test_uris(text: str, kind: str, endpoints: tuple[str, ...]) -> None:
    assert parse_uri(text) == ClusterUri(kind, endpoints)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["h:8000", "ftp://h:1", "http://h", "http://a:1,b:2", "etcd://", "etcd://h:99999", "etcd://u:p@h:1"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|several"):
        parse_uri(text)
