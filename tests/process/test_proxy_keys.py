"""A real proxy that asks for API keys, and serves over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import openai
import pytest
from helpers.certificates import make_certificate, needs_openssl
from helpers.serving import DEADLINE_S, MODEL, PROXY, Child, Serving, serving
from msgspec.structs import replace

from trtdisagg.config.api_keys import ApiKey, make_api_key
from trtdisagg.errors import RegistryError
from trtdisagg.protocol.proxy_spec import ProxySpec, RegistrySpec, TlsSpec
from trtdisagg.protocol.reports import Failed
from trtdisagg.registry.open import ask_about

pytestmark = pytest.mark.anyio

COMPLETIONS = "/v1/completions"
BODY: dict[str, Any] = {"model": MODEL, "prompt": "hello", "max_tokens": 4}
ALICE_KEY, ALICE = make_api_key("alice")
BOB_KEY, BOB = make_api_key("bob")
SECRET = "swordfish"


def write(path: Path, text: str | bytes) -> str:
    """As a program should: a reader sees the old file or the new one."""
    new = path.with_suffix(".new")
    new.touch(0o600)
    new.write_bytes(text if isinstance(text, bytes) else text.encode())
    new.replace(path)
    return str(path)


def write_keys(directory: Path, *keys: ApiKey) -> str:
    return write(directory / "keys.yaml", msgspec.yaml.encode(list(keys)))


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def cluster(directory: Path) -> Iterator[Serving]:
    keys = write_keys(directory, replace(ALICE, requests_per_minute=1000, max_in_flight=1), BOB)
    secret = write(directory / "secret", SECRET)
    with serving(
        directory, {"both-0": ["--token-delay-ms", "1"]}, api_keys_file=keys, secret_file=secret,
        cors_allow_origins=["https://app.example.org"],
    ) as cluster:  # fmt: skip
        yield cluster
        assert ALICE_KEY not in (log := cluster.proxy.log.read_text())
        assert BOB_KEY not in log
        assert SECRET not in log


@pytest.fixture
async def http(cluster: Serving) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(cluster.url, timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session:
        yield session


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_who_has_a_key_is_served_and_told_what_is_left(http: aiohttp.ClientSession, cluster: Serving) -> None:
    for stream in (False, True):
        async with http.post(COMPLETIONS, json={**BODY, "stream": stream}, headers=bearer(ALICE_KEY)) as answer:
            assert answer.status == 200
            assert answer.headers["x-ratelimit-limit-requests"] == "1000"
            assert 990 < int(answer.headers["x-ratelimit-remaining-requests"]) < 1000
            await answer.read()
    assert cluster["both-0"].state()["headers"]["aggregated"]["Authorization"] == f"Bearer {SECRET}"


@pytest.mark.parametrize("key", ["", "sk-wrong", SECRET])
async def test_who_has_none_is_refused(cluster: Serving, key: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{cluster.url}/v1", api_key=key or "-", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as e:
            await client.completions.create(**BODY)
        assert e.value.code == "invalid_api_key"
        assert e.value.response.headers["WWW-Authenticate"] == "Bearer"
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()


async def test_pages(http: aiohttp.ClientSession) -> None:
    for path, told in {"/health": {}, "/livez": {}, "/version": {}, "/metrics": bearer(SECRET)}.items():
        async with http.get(path, headers=told) as answer:
            assert answer.status == 200
    for path in ("/metrics", "/prometheus/metrics", "/perf_metrics", "/cluster_info", "/dashboard"):
        async with http.get(path, headers=bearer(ALICE_KEY)) as answer:
            assert answer.status == 401


async def test_too_many_at_once_are_a_429_and_those_that_run_end(http: aiohttp.ClientSession, cluster: Serving) -> None:
    cluster["both-0"].ask("hold", {})
    long = {**BODY, "max_tokens": 50}
    running = asyncio.ensure_future(http.post(COMPLETIONS, json=long, headers=bearer(ALICE_KEY)))
    await cluster["both-0"].wait("running")
    async with http.post(COMPLETIONS, json=BODY, headers=bearer(ALICE_KEY)) as answer:
        assert answer.status == 429
        assert answer.headers["Retry-After"] == "1"
        error = (await answer.json())["error"]
    assert (error["code"], "alice has 1 requests in flight" in error["message"]) == ("rate_limit_exceeded", True)
    cluster["both-0"].ask("go", {})
    async with await running as answer:
        assert answer.status == 200
        await answer.read()
    async with http.post(COMPLETIONS, json=BODY, headers=bearer(ALICE_KEY)) as answer:
        assert answer.status == 200
    async with http.get("/metrics", headers=bearer(SECRET)) as answer:
        assert 'route="/v1/completions",status="429"' in await answer.text()


async def until_none_in_flight(http: aiohttp.ClientSession) -> None:
    """A server may be done with what it was asked before the proxy is."""
    page = ""
    while "\ntrtdisagg_proxy_requests_in_flight 0" not in page:
        async with http.get("/metrics", headers=bearer(SECRET)) as answer:
            page = await answer.text()


async def test_a_client_that_leaves_is_not_in_flight_any_more(cluster: Serving, http: aiohttp.ClientSession) -> None:
    before = cluster["both-0"].state()["cancelled"]
    cluster["both-0"].ask("flags", {"token_delay_ms": 100})
    async with http.post(
        COMPLETIONS, json={**BODY, "max_tokens": 2000, "stream": True}, headers=bearer(ALICE_KEY)
    ) as answer:
        await answer.content.readany()
        answer.close()
    await cluster["both-0"].wait("cancelled", before + 1)
    cluster["both-0"].ask("flags", {"token_delay_ms": 1})
    await until_none_in_flight(http)
    async with http.post(COMPLETIONS, json=BODY, headers=bearer(ALICE_KEY)) as answer:
        assert answer.status == 200


async def test_browsers(http: aiohttp.ClientSession) -> None:
    told = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type"}  # fmt: skip
    async with http.options(COMPLETIONS, headers=told) as answer:
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == told["Origin"]
        assert "POST" in answer.headers["Access-Control-Allow-Methods"]
        assert answer.headers["Access-Control-Allow-Headers"] == told["Access-Control-Request-Headers"]
    for key, status in ((BOB_KEY, 200), ("wrong", 401)):
        for stream in (False, True):
            headers = {**bearer(key), "Origin": told["Origin"]}
            async with http.post(COMPLETIONS, json={**BODY, "stream": stream}, headers=headers) as answer:
                assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (status, told["Origin"])
                await answer.read()
    async with http.options(COMPLETIONS, headers={**told, "Origin": "https://evil.example.org"}) as answer:
        assert not any(name.startswith("Access-Control") for name in answer.headers)


async def test_a_change_of_the_file_counts(cluster: Serving, directory: Path, http: aiohttp.ClientSession) -> None:
    async def until(key: str, status: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                async with http.get("/v1/models", headers=bearer(key)) as answer:
                    if answer.status == status:
                        return

    carol_key, carol = make_api_key("carol")
    await until(carol_key, 401)
    write_keys(directory, carol, ALICE)
    await until(carol_key, 200)
    await until(BOB_KEY, 401)
    write(directory / "keys.yaml", "- {name: nobody}")
    async with asyncio.timeout(DEADLINE_S):
        while "API keys stay as they were" not in cluster.proxy.log.read_text():
            await until(carol_key, 200)
    await until(carol_key, 200)
    write_keys(directory, replace(ALICE, requests_per_minute=1000, max_in_flight=1), BOB)
    await until(carol_key, 401)


@needs_openssl
async def test_https(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path, "localhost")
    trusted = ssl.create_default_context(cafile=str(cert))
    with serving(
        tmp_path, {"context-0": [], "generation-0": []}, tls=TlsSpec(cert_file=str(cert), key_file=str(key)),
        registry=RegistrySpec(uri="https://localhost:8000"),
    ) as cluster:  # fmt: skip
        url = f"https://{cluster.proxy.url}"
        async with aiohttp.ClientSession(url, connector=aiohttp.TCPConnector(ssl=trusted)) as http:
            whole = {}
            for stream in (False, True):
                body = {**BODY, "max_tokens": 3000, "stream": stream}
                async with http.post(COMPLETIONS, json=body) as answer:
                    assert answer.status == 200
                    whole[stream] = await answer.text()
        for ca_file in (str(cert), None):
            spec = RegistrySpec(uri=f"https://{cluster.proxy.url}", ca_file=ca_file)
            if ca_file is None:
                with pytest.raises(RegistryError, match="certificate verify failed"):
                    await ask_about(spec, None)
            else:
                assert (about := await ask_about(spec, None)) is not None
                assert about.cluster == "test"
        said = [json.loads(line[6:]) for line in whole[True].splitlines() if line.startswith("data: {")]
        assert "".join(c["choices"][0]["text"] for c in said) == json.loads(whole[False])["choices"][0]["text"]


@pytest.mark.parametrize(
    ("fields", "about"),
    [
        ({"api_keys_file": "/none/keys.yaml"}, "api_keys_file /none/keys.yaml cannot be read"),
        ({"tls": TlsSpec(cert_file="/none/c.pem", key_file="/none/k.pem")}, "cert_file /none/c.pem cannot be read"),
    ],
)
def test_files_that_cannot_be_used_end_the_start(tmp_path: Path, fields: dict[str, Any], about: str) -> None:
    proxy = Child(PROXY, ProxySpec(cluster="test", port=0, **fields), tmp_path / "proxy.json")
    with contextlib.closing(proxy):
        report = proxy.next_report()
        assert isinstance(report, Failed)
        assert report.fatal
        assert about in report.message
        assert proxy.process.wait(DEADLINE_S) != 0
