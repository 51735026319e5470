"""A cluster that `up` brings up with API keys, TLS and several proxy processes."""

from __future__ import annotations

import asyncio
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import msgspec
import pytest
from helpers.certificates import make_certificate, needs_openssl
from helpers.cluster import REPOSITORY, Cluster, running
from helpers.ports import free_port
from helpers.waiting import DEADLINE_S
from msgspec.structs import replace

from trtdisagg.config.api_keys import make_api_key

pytestmark = needs_openssl

FAKE = [sys.executable, str(REPOSITORY / "tests" / "fakes" / "engine.py")]
KEY, ENTRY = make_api_key("alice")
PER_MINUTE = 10


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("up")


@pytest.fixture(scope="module")
def cluster(directory: Path) -> Iterator[Cluster]:
    """The files are named as seen from the cluster file."""
    make_certificate(directory, "own")
    keys = directory / "keys.yaml"
    keys.touch(0o600)
    keys.write_bytes(msgspec.yaml.encode([replace(ENTRY, requests_per_minute=PER_MINUTE)]))
    text = f"""\
name: door
model: fake-model
port: {free_port()}
command: {FAKE}
context_servers: {{num_instances: 1}}
generation_servers: {{num_instances: 1}}
proxy:
  num_workers: 2
  api_keys_file: keys.yaml
  tls: {{cert_file: own.pem, key_file: own.key}}
"""
    with running(directory, text) as it:
        yield it


async def ask_all(url: str, trusted: Path, number: int) -> list[int]:
    """Each over a connection of its own, so that all processes are asked."""

    async def ask() -> int:
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=str(trusted)))
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as http,
            http.post(
                f"{url}/v1/completions",
                json={"model": "fake-model", "prompt": "hello", "max_tokens": 2},
                headers={"Authorization": f"Bearer {KEY}"},
            ) as answer,
        ):
            await answer.read()
            return answer.status

    return [status for _ in range(number // 10) for status in await asyncio.gather(*(ask() for _ in range(10)))]


def test_a_clients_limit_is_one_of_all_processes(cluster: Cluster, directory: Path) -> None:
    url = cluster.status()["url"]
    assert url.startswith("https://127.0.0.1:")
    began = time.monotonic()
    statuses = asyncio.run(ask_all(url, directory / "own.pem", 2 * PER_MINUTE))
    num_flown_in = (time.monotonic() - began) * PER_MINUTE / 60
    assert set(statuses) == {200, 429}
    # Two processes may let somebody in at the same moment.
    assert PER_MINUTE <= statuses.count(200) <= PER_MINUTE + num_flown_in + 1
    assert KEY not in cluster.logs()
