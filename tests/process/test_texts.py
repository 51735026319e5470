"""Texts read in processes of their own, by real ones; they are killed, stopped and given what they cannot read."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from helpers import tiny_tokenizer

from trtdisagg.errors import DeadlineError, OverloadedError, RequestError, UnavailableError
from trtdisagg.proxy.deadlines import Deadlines
from trtdisagg.proxy.path.request import Incoming, decode_incoming
from trtdisagg.proxy.texts import crew, process, texts
from trtdisagg.proxy.texts.texts import Reading, Texts
from trtdisagg.text.block_hash import extend_chain, keys, root_hash
from trtdisagg.text.model_files import files_at
from trtdisagg.text.prompts import read_prompts
from trtdisagg.text.tokenizer import Tokenizer, load_tokenizer

pytestmark = pytest.mark.anyio
CHAT = [{"role": "user", "content": "the end"}]
ROOTS = [("weights", 4), ("weights", 8)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    tiny_tokenizer.write_model(directory)
    return directory


@pytest.fixture
def tokenizer(model: Path) -> Tokenizer:
    return load_tokenizer(files_at(model))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What can be read is not to go on unread."""
    monkeypatch.setattr(texts, "SHORT_TIMEOUT_S", 60.0)
    monkeypatch.setattr(texts, "LONG_TIMEOUT_S", 60.0)
    monkeypatch.setattr(texts, "PAGE_TIMEOUT_S", 60.0)


@contextlib.asynccontextmanager
async def running(model: Path, num_processes: int = 1) -> AsyncIterator[Texts]:
    texts = Texts({"m": str(model)}, Deadlines(), num_processes=num_processes)
    task = asyncio.create_task(texts.run())
    try:
        yield texts
    finally:
        pids = texts.pids
        task.cancel()
        await asyncio.wait([task])
        assert not [pid for pid in pids if psutil.pid_exists(pid)]


def incoming(**fields: Any) -> Incoming:
    body = msgspec.json.encode({"model": "m", **fields})
    return decode_incoming(body, chat="messages" in fields, request_id="test")


async def read(texts: Texts, **fields: Any) -> Reading:
    found = await texts.read(incoming(**fields), ROOTS)
    assert found is not None
    return found


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "the end of all " * 9},
        {"prompt": [5, 6, 7, 8, 9]},
        {"prompt": "the end", "truncate_prompt_tokens": 2},
        {"prompt": "the end of", "cache_salt": "mine"},
        {"messages": CHAT},
        {"messages": CHAT, "add_generation_prompt": False},
    ],
)
async def test_a_prompt_is_read_as_a_server_reads_it(model: Path, tokenizer: Tokenizer, fields: dict[str, Any]) -> None:
    from trtdisagg.protocol.decoding import decode_request
    from trtdisagg.protocol.openai import ChatRequest, CompletionRequest

    kind = ChatRequest if "messages" in fields else CompletionRequest
    (tokens,) = read_prompts(decode_request(incoming(**fields).body, kind), tokenizer)
    async with running(model) as texts:
        found = await read(texts, **fields)
    assert found.num_tokens == len(tokens)
    assert found.token_ids is not None
    assert msgspec.json.decode(found.token_ids) == tokens
    for root, n in ROOTS:
        chain: list[bytes] = []
        extend_chain(chain, root_hash(root, fields.get("cache_salt")), tokens, n, len(tokens))
        assert list(found.chains[root, n]) == list(keys(b"".join(chain)))


async def test_several_prompts_have_no_tokens_but_a_number(model: Path) -> None:
    async with running(model) as texts:
        found = await read(texts, prompt=[[5] * 9, [6] * 3])
    assert (found.num_tokens, found.token_ids) == (12, None)
    assert len(found.chains["weights", 4]) == 2


async def test_what_cannot_be_read_goes_on_unread(model: Path) -> None:
    """A server refuses it in its own words."""
    async with running(model) as texts:
        assert await texts.read(incoming(prompt="")) is None
        assert await texts.read(incoming(messages=[])) is None
        assert (texts.num_read, texts.num_unread) == (0, 2)
        with pytest.raises(RequestError, match=r"`tokens\[0\]` is 999") as e:
            await texts.detokenize("m", b'{"tokens": [999]}')
        assert (e.value.http_status, e.value.param) == (400, "tokens[0]")
        page = msgspec.json.decode(await texts.tokenize("m", b'{"prompt": "the"}', 100))
        assert page == {"count": 2, "max_model_len": 100, "tokens": page["tokens"], "token_strs": None}


async def test_no_model_no_process(tmp_path: Path) -> None:
    async with running(tmp_path) as texts:
        assert await texts.read(msgspec.structs.replace(incoming(prompt="a"), model="other")) is None
        assert texts.pids == []
        assert await texts.read(incoming(prompt="a")) is None  # there is nothing at its path
        assert texts.num_unread == 1


async def test_a_job_outlives_one_process_and_not_two(model: Path) -> None:
    async with running(model) as texts:
        await read(texts, prompt="a")
        os.kill(texts.pids[0], signal.SIGSTOP)
        job = asyncio.create_task(texts.read(incoming(prompt="the")))
        await until(lambda: texts.num_waiting == 0)
        os.kill(texts.pids[0], signal.SIGKILL)
        found = await job
        assert found is not None
        assert found.num_tokens == 2

        os.kill(pid := texts.pids[0], signal.SIGSTOP)
        page = asyncio.create_task(texts.tokenize("m", b'{"prompt": "the"}', None))
        await asyncio.sleep(0)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: texts.pids not in ([], [pid]))
        os.kill(texts.pids[0], signal.SIGKILL)
        with pytest.raises(UnavailableError, match="have failed"):
            await page
        await until(lambda: bool(texts.pids))
        await read(texts, prompt="a")


async def test_short_ones_pass_long_ones(model: Path) -> None:
    """One process is enough for both."""
    order: list[str] = []

    async def job(texts: Texts, name: str, prompt: str) -> None:
        assert await texts.tokenize("m", msgspec.json.encode({"prompt": prompt}), None)
        order.append(name)

    async with running(model) as texts, asyncio.TaskGroup() as tasks:
        for i in range(4):
            tasks.create_task(job(texts, f"long {i}", "the end of all " * 20_000))
        tasks.create_task(job(texts, "short", "a"))
    assert order.index("short") < 2
    assert [name for name in order if name != "short"] == [f"long {i}" for i in range(4)]


async def test_nobody_waits_for_ever(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(model) as found:
        await read(found, prompt="a")
        monkeypatch.setattr(texts, "PAGE_TIMEOUT_S", 0.1)
        monkeypatch.setattr(process, "STUCK_S", 0.5)
        os.kill(pid := found.pids[0], signal.SIGSTOP)
        with pytest.raises(DeadlineError):
            await found.tokenize("m", b'{"prompt": "a"}', None)
        await until(lambda: found.pids not in ([], [pid]))
        monkeypatch.setattr(process, "STUCK_S", 60.0)
        await read(found, prompt="a")


@pytest.mark.parametrize("program", ["/bin/false", "/not/there"])
async def test_processes_that_cannot_work(model: Path, monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(process, "ARGV", [program])
    monkeypatch.setattr(texts, "PAGE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(texts, "SHORT_TIMEOUT_S", 0.3)
    async with running(model) as found:
        for _ in range(5):
            with pytest.raises((UnavailableError, DeadlineError)):
                await found.tokenize("m", b'{"prompt": "a"}', None)
        assert await found.read(incoming(prompt="a")) is None
        assert found.num_waiting <= 1


async def test_no_more_wait_than_can_be_read_soon(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "MAX_WAITING", 2)
    async with running(model) as found:
        await read(found, prompt="a")
        os.kill(found.pids[0], signal.SIGSTOP)
        jobs = [asyncio.create_task(found.tokenize("m", b'{"prompt": "a"}', None)) for _ in range(3)]
        await until(lambda: found.num_waiting == 2)
        with pytest.raises(OverloadedError, match="2 texts wait"):
            await found.tokenize("m", b'{"prompt": "a"}', None)
        assert await found.read(incoming(prompt="a")) is None
        os.kill(found.pids[0], signal.SIGCONT)
        assert len(await asyncio.gather(*jobs)) == 3


async def test_who_has_left_is_not_read_for(model: Path) -> None:
    async with running(model) as texts:
        await read(texts, prompt="a")
        os.kill(texts.pids[0], signal.SIGSTOP)
        jobs = [asyncio.create_task(texts.read(incoming(prompt="a"))) for _ in range(5)]
        await until(lambda: texts.num_waiting == 4)
        for job in jobs:
            job.cancel()
        await asyncio.wait(jobs)
        os.kill(texts.pids[0], signal.SIGCONT)
        await read(texts, prompt="a")
        assert (texts.num_read, texts.num_unread, texts.num_waiting) == (2, 0, 0)


async def test_signals_to_the_group_do_not_end_it(model: Path) -> None:
    async with running(model) as texts:
        await read(texts, prompt="a")
        pids = texts.pids
        os.kill(pids[0], signal.SIGTERM)
        os.kill(pids[0], signal.SIGINT)
        await read(texts, prompt="a")
        assert texts.pids == pids


async def test_large_bodies(model: Path) -> None:
    """Longer than what a socket takes at once, both ways."""
    async with running(model) as texts:
        found = await read(texts, prompt=[7] * 400_000)
        assert found.num_tokens == 400_000
        assert len(found.chains["weights", 4]) == 100_000
