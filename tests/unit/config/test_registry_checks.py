"""`disagg_cluster`: what fits together, and a file whose servers are all elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from trtdisagg.config.load import load
from trtdisagg.errors import ConfigError


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str) -> str:
    Path("c.yaml").write_text(text)
    return "c.yaml"


def test_tensorrt_llms_file_for_servers_that_register() -> None:
    cluster = load(
        write("""\
hostname: localhost
port: 8000
backend: pytorch
disagg_cluster:
  cluster_uri: http://localhost:8000
  cluster_name: example
  heartbeat_interval_sec: 2
  inactive_timeout_sec: 4
  minimal_instances: {context_servers: 2, generation_servers: 1}
context_servers: {router: {type: round_robin}}
generation_servers: {}
""")
    ).cluster
    assert cluster.context_servers is not None
    assert cluster.context_servers.num_instances == 0
    assert cluster.disagg_cluster.minimal_instances.context_servers == 2


def test_a_file_without_servers_is_fine_where_they_are_elsewhere() -> None:
    file = write("port: 8000")
    assert load(file, elsewhere=True).cluster.model is None
    with pytest.raises(ConfigError, match="no servers"):
        load(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cluster_uri: ftp://h:1", "cluster_uri: expected http://"),
        ("cluster_uri: http://h:9000", "cluster_uri: port 9000, but the proxy, in which servers register, has 8000"),
        ("cluster_uri: etcd://h:99999", "cluster_uri: expected host:port"),
        ("heartbeat_interval_sec: 10", "heartbeat_interval_sec: must be shorter than inactive_timeout_sec"),
        ("{cluster_uri: etcd://h, cluster_name: a/b}", "cluster_name: 'a/b': no slash"),
        ("{cluster_uri: etcd://h, user: u}", "user: without a password_file"),
        ("{cluster_uri: etcds://h, cert_file: c}", "cert_file: without a key_file"),
        ("{cluster_uri: etcd://h, ca_file: c}", "ca_file: would change nothing: TLS is for etcds://"),
        ("{cluster_uri: http://h:8000, user: u}", "user: would change nothing: it is for etcd"),
        ("{cluster_uri: http://h:8000, ca_file: c}", "ca_file: would change nothing: TLS is for https://"),
        ("user: u", "user: would change nothing: there is no cluster_uri"),
    ],
)
def test_what_does_not_fit(text: str, message: str) -> None:
    text = text if text.startswith("{") else "{" + text + "}"
    with pytest.raises(ConfigError) as e:
        load(write(f"model: m\ndisagg_cluster: {text}\n"))
    assert e.value.message.startswith(f"c.yaml:2: disagg_cluster.{message}")


def test_servers_register_with_a_proxy_by_the_way_it_takes() -> None:
    tls = "proxy: {tls: {cert_file: c, key_file: k}}"
    text = f"model: m\ndisagg_cluster: {{cluster_uri: http://h:8000}}\n{tls}\n"
    with pytest.raises(ConfigError, match=r"has `tls`: https://h:8000"):
        load(write(text))
    uri = load(write(text.replace("http:", "https:"))).cluster.disagg_cluster.cluster_uri
    assert uri == "https://h:8000"
