"""Whatever one server can do, a disaggregated cluster can: random requests over all features, answered by both."""

from __future__ import annotations

import contextlib
import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from helpers import chat_templates, tiny_model
from helpers.conformance import PERSON, WEATHER, Wish, comparable
from helpers.engine_process import Engine, make_spec, started
from helpers.serving import PROXY, Child
from helpers.waiting import DEADLINE_S

from trtdisagg.protocol.proxy_spec import ProxySpec, UpstreamServer
from trtdisagg.protocol.spec import Role

NUM_REQUESTS = 200
MAX_SEQ_LEN = 2048


class Servers:
    """A context and a generation server behind a proxy, and one server that is asked alone."""

    def __init__(self, engines: dict[str, Engine], proxy: Child) -> None:
        self.engines = engines
        self.proxy = proxy

    def ask(self, name: str, wish: Wish) -> Any:
        url = f"http://{self.proxy.url}" if name == "proxy" else self.engines[name].url
        request = urllib.request.Request(url + wish.path, json.dumps({**wish.body}).encode())
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                return comparable(answer.status, answer.read().decode(), stream=wish.stream)
        except urllib.error.HTTPError as e:
            with e:
                return comparable(e.code, e.read().decode(), stream=False)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    directory = tmp_path_factory.mktemp("conformance")
    model = tiny_model.write(directory / "tiny")
    _change(model / "config.json", max_position_embeddings=MAX_SEQ_LEN)
    _change(model / "tokenizer_config.json", chat_template=chat_templates.TEMPLATES["qwen3"])
    roles: dict[str, Role] = {"context-0": "context", "generation-0": "generation", "alone": "both"}
    with contextlib.ExitStack() as stack:
        engines = {}
        for name, role in roles.items():
            spec = make_spec(model, name, role=role, max_seq_len=MAX_SEQ_LEN, num_blocks=1024, max_num_tokens=512)
            engines[name] = stack.enter_context(started(spec, directory))
        for engine in engines.values():
            engine.ready()
        behind = [
            UpstreamServer(name=name, role=roles[name], model=None, url=engines[name].url.removeprefix("http://"))
            for name in ("context-0", "generation-0")
        ]
        proxy = Child(PROXY, ProxySpec(cluster="c", port=0, servers=behind), directory / "proxy.json")
        stack.callback(proxy.close)
        proxy.wait_ready()
        yield Servers(engines, proxy)
        assert "Traceback" not in (log := proxy.log.read_text()), log


def _change(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def test_answers_are_those_of_one_server(servers: Servers, num_rounds: int) -> None:
    wishes = [Wish(i, seed) for seed in range(num_rounds) for i in range(NUM_REQUESTS)]
    with ThreadPoolExecutor(8) as clients:
        alone = clients.map(lambda wish: servers.ask("alone", wish), wishes)
        both = clients.map(lambda wish: servers.ask("proxy", wish), wishes)
        differing = [(w, a, b) for w, a, b in zip(wishes, alone, both, strict=True) if a != b]
    assert not differing, "\n\n".join(f"{w}\nalone: {a}\nproxy: {b}" for w, a, b in differing[:3])
    for name in ("context-0", "generation-0"):
        servers.engines[name].until_free()
    transfers = servers.engines["generation-0"].metrics()["trtdisagg_kv_transfers_total"]
    assert transfers > NUM_REQUESTS / 4, "hardly any request went over two servers"


def test_the_requests_are_not_all_alike() -> None:
    wishes = [Wish(i, 0) for i in range(NUM_REQUESTS)]
    used = Counter(name for wish in wishes for name in wish.body)
    assert min(used.values()) >= 1
    assert len(used) > 35
    assert len({repr(wish) for wish in wishes}) == NUM_REQUESTS


@pytest.mark.parametrize("fields", [{}, {"tools": True}, {"schema": True}])
def test_responses_say_what_a_chat_says(servers: Servers, fields: dict[str, bool]) -> None:
    """Text, calls and JSON, whole and in events, with the client people use."""
    sampled: dict[str, Any] = {"temperature": 0.5, "extra_body": {"seed": 7, "frequency_penalty": 2.0}}
    asked: dict[str, Any] = {"model": "tiny", "input": "Rain?", "max_output_tokens": 60, **sampled}
    chat: dict[str, Any] = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Rain?"}],
        "max_completion_tokens": 60,
        **sampled,
    }
    if fields.get("tools"):
        asked |= {"tools": [{"type": "function", **WEATHER["function"]}], "tool_choice": "required"}
        chat |= {"tools": [WEATHER], "tool_choice": "required"}
    if fields.get("schema"):
        form = {"name": "person", "schema": PERSON}
        asked["text"] = {"format": {"type": "json_schema", **form}}
        chat["response_format"] = {"type": "json_schema", "json_schema": form}
    with openai.OpenAI(base_url=f"http://{servers.proxy.url}/v1", api_key="-", max_retries=0) as client:
        whole = client.responses.create(**asked)
        *_, last = client.responses.create(**asked, stream=True)
        message = client.chat.completions.create(**chat).choices[0].message
    for response in (whole, last.response):
        calls = [(c.name, c.arguments) for c in response.output if c.type == "function_call"]
        assert calls == [(c.function.name, c.function.arguments) for c in message.tool_calls or ()]
        assert response.output_text == (message.content or "")
    assert bool(message.tool_calls) == ("tools" in fields)
