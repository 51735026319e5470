"""The older file that says where servers register."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdisagg.config.metadata import load_metadata
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.proxy_spec import MetadataSpec


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(text: str) -> tuple[MetadataSpec, list[str]]:
    Path("m.yaml").write_text(text)
    return load_metadata(Path("m.yaml"))


def test_all_of_it(directory: Path) -> None:
    text = "server_type: etcd\nhostname: h\nport: 7\nhealth_check_timeout: 1.5\nrefresh_interval: 3\n"
    assert load(text) == (MetadataSpec(uri="etcd://h:7", health_check_timeout_s=1.5, refresh_interval_s=3.0), [])


def test_what_is_not_said(directory: Path) -> None:
    assert load("server_type: etcd") == (MetadataSpec(uri="etcd://localhost:2379"), [])


def test_the_spelling_of_the_documentation(directory: Path) -> None:
    spec, notices = load("hostname: '::1'\nrefersh_interval: 2.0\n")
    assert (spec.uri, spec.refresh_interval_s) == ("etcd://[::1]:2379", 2.0)
    assert notices == ["m.yaml:2: refersh_interval: is spelled refresh_interval; taken as that"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("server_type: zookeeper", "m.yaml:1: server_type: "),
        ("server_type: etcd\nhost: h", "m.yaml:2: host: unknown key; did you mean hostname?"),
        ("port: x", "m.yaml:1: port: "),
        ("refresh_interval: 0", "m.yaml:1: refresh_interval: "),
        ("refresh_interval: 1\nrefersh_interval: 1", "m.yaml:2: refersh_interval: means refresh_interval"),
        ("- 1", "m.yaml:1: expected a mapping"),
    ],
)
def test_what_is_wrong(directory: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as e:
        load(text)
    assert e.value.message.startswith(message)
