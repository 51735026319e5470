"""The proxy's certificate: used, changed while connections come, and refused with the reason."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from helpers.certificates import make_certificate, needs_openssl

from trtdisagg.errors import StartupError
from trtdisagg.protocol.proxy_spec import TlsSpec
from trtdisagg.proxy.door.watched import Watched, watch
from trtdisagg.proxy.http import http_server
from trtdisagg.proxy.http.http_server import serving
from trtdisagg.proxy.http.tls import Tls

pytestmark = [pytest.mark.anyio, needs_openssl]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("certificates")
    for name in ("first", "second"):
        make_certificate(directory, name)
    make_certificate(directory, "locked", password="swordfish")
    return directory


@pytest.fixture
def spec(made: Path, tmp_path: Path) -> TlsSpec:
    shutil.copy(made / "first.pem", tmp_path / "cert.pem")
    shutil.copy(made / "first.key", tmp_path / "key.pem")
    return TlsSpec(cert_file=str(tmp_path / "cert.pem"), key_file=str(tmp_path / "key.pem"))


async def _answer(_: web.BaseRequest) -> web.Response:
    return web.Response(text="here")


@contextlib.asynccontextmanager
async def served(tls: Tls) -> AsyncIterator[Callable[[Path], asyncio.Task[str]]]:
    """:yields: asks with a certificate that is trusted."""

    async def ask(trusted: Path) -> str:
        context = ssl.create_default_context(cafile=str(trusted))
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as http,
            http.get(f"https://localhost:{port}/", ssl=context) as answer,
        ):
            return await answer.text()

    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        async with serving(_answer, [sock], 1000, tls=tls.context):
            yield lambda trusted: asyncio.ensure_future(ask(trusted))


async def test_a_changed_certificate_is_used_for_who_comes_then(made: Path, spec: TlsSpec) -> None:
    tls = Tls(spec)
    reloaded = asyncio.Event()

    def reload() -> None:
        tls.reload()
        reloaded.set()

    files = Watched("certificate", (Path(spec.cert_file), Path(spec.key_file)), reload)
    watching = asyncio.ensure_future(watch([files], 0.02))
    async with served(tls) as ask:
        assert await ask(made / "first.pem") == "here"
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await ask(made / "second.pem")
        shutil.copy(made / "second.pem", spec.cert_file)
        shutil.copy(made / "second.key", spec.key_file)
        async with asyncio.timeout(60):
            await reloaded.wait()
        assert await ask(made / "second.pem") == "here"
    watching.cancel()


async def test_files_that_do_not_go_together_change_nothing(
    made: Path, spec: TlsSpec, caplog: pytest.LogCaptureFixture
) -> None:
    tls = Tls(spec)
    tried = asyncio.Event()

    def reload() -> None:
        tried.set()
        tls.reload()

    watching = asyncio.ensure_future(watch([Watched("certificate", (Path(spec.cert_file),), reload)], 0.02))
    async with served(tls) as ask:
        await asyncio.sleep(0)  # it has looked
        shutil.copy(made / "second.pem", spec.cert_file)
        async with asyncio.timeout(60):
            await tried.wait()
        assert await ask(made / "first.pem") == "here"
    assert caplog.text.count("the key is not the certificate's") == 1
    watching.cancel()


@pytest.mark.parametrize(
    ("cert", "key", "about"),
    [
        ("none.pem", "first.key", r"cert_file .*none.pem cannot be read: No such file"),
        ("first.pem", "none.key", r"key_file .*none.key cannot be read"),
        ("first.pem", "second.key", "the key is not the certificate's"),
        ("first.key", "first.key", "not a PEM certificate"),
        ("first.pem", "first.pem", "not a PEM certificate"),
        ("locked.pem", "locked.key", "locked.key is encrypted"),
    ],
)
async def test_what_is_wrong_with_the_files_is_said(made: Path, cert: str, key: str, about: str) -> None:
    with pytest.raises(StartupError, match=about):
        Tls(TlsSpec(cert_file=str(made / cert), key_file=str(made / key)))


async def test_who_never_agrees_on_tls_is_not_waited_for(
    spec: TlsSpec, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server, "HANDSHAKE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with serving(_answer, [sock], 1000, tls=Tls(spec).context):
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(b"\x16\x03\x01")  # the first bytes of a handshake, and no more
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 60) == b""
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
    assert "Traceback" not in caplog.text


async def test_who_speaks_no_tls_is_no_trouble(spec: TlsSpec, made: Path, caplog: pytest.LogCaptureFixture) -> None:
    tls = Tls(spec)
    with socket.create_server(("127.0.0.1", 0)) as sock:
        async with serving(_answer, [sock], 1000, tls=tls.context):
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert b"here" not in await asyncio.wait_for(reader.read(), 60)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
    assert "Traceback" not in caplog.text
