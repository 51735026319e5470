"""Requests go where their beginning is computed: a real proxy, its text processes, fake engines that tell of blocks."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from fakes import words
from helpers import tiny_tokenizer
from helpers.cluster import post
from helpers.serving import DEADLINE_S, MODEL, FakeEngine, Serving, serving
from helpers.waiting import until

from trtdisagg.protocol.proxy_spec import ModelSpec, RouterSpec
from trtdisagg.text.model_files import files_at
from trtdisagg.text.tokenizer import Tokenizer, load_tokenizer

AWARE = RouterSpec(type="kv_cache_aware")
PROMPT = "the end of all " * 30
CONTEXTS = ["context-0", "context-1", "context-2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    tiny_tokenizer.write_model(directory)
    return directory


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return load_tokenizer(files_at(model))


@contextlib.contextmanager
def cluster(directory: Path, model: Path, flags: Sequence[str] = (), **fields: Any) -> Iterator[Serving]:
    spec = ModelSpec(model_path=str(model), context_router=AWARE, **fields)
    engines = dict.fromkeys([*CONTEXTS, "generation-0"], flags)
    with serving(directory, engines, models={MODEL: spec}) as found:
        if not flags:
            until(lambda: all_followed(found), "all are followed", DEADLINE_S, found.proxy.log.read_text)
            assert post(f"{found.url}/tokenize", {"model": MODEL, "prompt": "a"})[0] == 200  # it is there
        yield found


def all_followed(cluster: Serving) -> bool:
    return all(cluster[name].state()["num_followers"] for name in CONTEXTS)


def ask(cluster: Serving, prompt: str = PROMPT, **fields: Any) -> str:
    status, body = post(f"{cluster.url}/v1/completions", {"model": MODEL, "prompt": prompt, "max_tokens": 3, **fields})
    assert status == 200, body
    text: str = body["choices"][0]["text"]
    return text


def readers(cluster: Serving) -> list[psutil.Process]:
    """The proxy's processes that read texts."""
    return psutil.Process(cluster.proxy.process.pid).children()


def prefills(cluster: Serving) -> list[int]:
    return [cluster[name].state()["context"] for name in CONTEXTS]


def metric(cluster: Serving, name: str, server: str) -> float:
    with urllib.request.urlopen(f"{cluster.url}/metrics", timeout=DEADLINE_S) as page:
        (line,) = (
            x for x in page.read().decode().splitlines() if x.startswith(f"trtdisagg_proxy_{name}{{") and server in x
        )
    return float(line.rpartition(" ")[2])


def test_a_beginning_that_is_known_is_asked_for_where_it_is(tmp_path: Path, model: Path, tokenizer: Tokenizer) -> None:
    with cluster(tmp_path, model) as c:
        answer = words.answer(tokenizer.encode(PROMPT), 3)
        for i in range(5):
            assert ask(c) == answer
            ask(c, f"{i} something else")
        owner = max(range(3), key=lambda i: prefills(c)[i])
        assert prefills(c)[owner] >= 5
        assert sum(prefills(c)) == 10
        assert metric(c, "server_cache_known", CONTEXTS[owner]) == 1
        assert metric(c, "server_cache_blocks", CONTEXTS[owner]) == c[CONTEXTS[owner]].state()["num_blocks"] > 0
        body = c[CONTEXTS[owner]].state()["bodies"]["context"]
        assert isinstance(body["prompt"], list)  # read once, here

        # It has forgotten all: the next one computes it again, and is asked from then on.
        c[CONTEXTS[owner]].ask("evict", {})
        others = [name for i, name in enumerate(CONTEXTS) if i != owner]
        c.tell(*(c[name].member for name in [*others, "generation-0"]))
        before = [c[name].state()["context"] for name in others]
        for _ in range(4):
            assert ask(c) == answer
        after = [c[name].state()["context"] for name in others]
        assert sorted(b - a for a, b in zip(before, after, strict=True)) == [0, 4]


def test_a_server_that_starts_again_has_nothing(tmp_path: Path, model: Path) -> None:
    with cluster(tmp_path, model) as c:
        ask(c)
        (owner,) = [name for name in CONTEXTS if c[name].state()["context"]]
        c[owner].process.kill()
        c[owner].process.wait()
        others = [c[name] for name in [*CONTEXTS, "generation-0"] if name != owner]
        c.tell(*(engine.member for engine in others))
        ask(c)
        (warm,) = [engine for engine in others if engine.state()["context"]]
        with contextlib.closing(FakeEngine(tmp_path, owner, incarnation=f"{owner}.2")) as again:
            again.wait_ready()
            c.tell(*(engine.member for engine in others), again.member)
            until(lambda: bool(again.state()["num_followers"]), "it is followed", DEADLINE_S)
            for _ in range(3):
                ask(c)
            assert (warm.state()["context"], again.state()["context"]) == (4, 0)


def test_a_proxy_that_starts_again_learns_what_is_where(tmp_path: Path, model: Path) -> None:
    with cluster(tmp_path, model) as c:
        ask(c)
        (owner,) = [name for name in CONTEXTS if c[name].state()["context"]]
        (reader,) = readers(c)
        c.proxy.process.kill()
        c.proxy.process.wait()
        reader.wait(DEADLINE_S)  # it ends with its proxy
        until(lambda: not any(c[name].state()["num_followers"] for name in CONTEXTS), "none is followed", DEADLINE_S)
        spec = ModelSpec(model_path=str(model), context_router=AWARE)
        members = [c[name].member for name in [*CONTEXTS, "generation-0"]]
        (tmp_path / "again").mkdir()
        with serving(tmp_path / "again", {}, models={MODEL: spec}) as again:
            again.tell(*members)
            until(lambda: all_followed(c), "all are followed again", DEADLINE_S)
            for _ in range(3):
                ask(again)
        assert c[owner].state()["context"] == 4


def test_a_burst_of_equal_prompts_stays_together(tmp_path: Path, model: Path) -> None:
    """Though no event has come yet: the first has not been computed when the others are routed."""
    with cluster(tmp_path, model) as c:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: ask(c), range(8)))
        assert sorted(prefills(c)) == [0, 0, 8]


def test_a_prompt_that_generation_has_needs_no_context_server(
    tmp_path: Path, model: Path, tokenizer: Tokenizer
) -> None:
    with cluster(tmp_path, model, max_local_prefill_length=40) as c:
        until(lambda: bool(c["generation-0"].state()["num_followers"]), "it is followed", DEADLINE_S)
        assert ask(c) == words.answer(tokenizer.encode(PROMPT), 3)
        assert sum(prefills(c)) == 1
        longer = PROMPT + "and more"
        assert ask(c, longer) == words.answer(tokenizer.encode(longer), 3)
        assert sum(prefills(c)) == 1
        ask(c, PROMPT + PROMPT)
        assert sum(prefills(c)) == 2


def test_a_process_that_dies_costs_no_request(tmp_path: Path, model: Path, tokenizer: Tokenizer) -> None:
    answers = {words.answer(prompt, 3) for prompt in (tokenizer.encode(PROMPT), PROMPT)}  # read by the proxy, or not
    with cluster(tmp_path, model) as c, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, c) for _ in range(40)]
        for reader in readers(c):
            reader.kill()
            reader.wait(DEADLINE_S)
        assert {request.result() for request in asked} <= answers
        assert sum(prefills(c)) == 40


def test_without_events_load_decides(tmp_path: Path, model: Path) -> None:
    with cluster(tmp_path, model, ["--foreign"]) as c:
        for _ in range(6):
            ask(c)
        assert prefills(c) == [2, 2, 2]
        words, log = "tells nothing of its cache", c.proxy.log
        until(lambda: log.read_text().count(words) == 3, words, DEADLINE_S, log.read_text)
        assert metric(c, "server_cache_known", "context-0") == 0


def test_conversations_are_read_as_well(tmp_path: Path, model: Path, tokenizer: Tokenizer) -> None:
    messages = [{"role": "user", "content": PROMPT}]
    with cluster(tmp_path, model) as c:
        body = {"model": MODEL, "messages": messages, "max_tokens": 2}
        for _ in range(3):
            status, answer = post(f"{c.url}/v1/chat/completions", body)
            assert status == 200
        rendered = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
        ids = tokenizer.encode(rendered, add_special_tokens=False)
        assert answer["choices"][0]["message"]["content"] == words.answer(ids, 2)
        assert sorted(prefills(c)) == [0, 0, 3]


def test_tokenize_and_detokenize(tmp_path: Path, model: Path, tokenizer: Tokenizer) -> None:
    with cluster(tmp_path, model) as c:
        status, page = post(f"{c.url}/tokenize", {"model": MODEL, "prompt": "the end"})
        assert (status, page["tokens"], page["max_model_len"]) == (200, tokenizer.encode("the end"), None)
        assert post(f"{c.url}/detokenize", {"tokens": page["tokens"]}) == (200, {"prompt": "the end"})
        for route, body, status in [
            ("tokenize", {"model": "other", "prompt": "a"}, 404),
            ("tokenize", {"model": MODEL}, 400),
            ("tokenize", b"{", 400),
            ("detokenize", {"tokens": [10**6]}, 400),
        ]:
            found, answer = post(f"{c.url}/{route}", body)
            assert (found, bool(answer["error"]["message"])) == (status, True), answer
