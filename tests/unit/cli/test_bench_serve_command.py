"""`trtdisagg bench serve` as it is called: its options, its exit codes, and what it prints."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from fakes.openai_endpoint import answering, refused, streamed
from helpers.statuses import BUSY
from msgspec.structs import replace

from trtdisagg.bench.serve.report import ServeReport
from trtdisagg.cli.bench import serve_target
from trtdisagg.cli.bench.serve_options import goodput_of, load_of
from trtdisagg.cli.main import cli
from trtdisagg.errors import ConfigError, NotRunningError
from trtdisagg.protocol.control import ServerStatus


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have one."""

    def none(_word: None) -> None:
        raise NotRunningError("no cluster is running")

    monkeypatch.setattr(serve_target, "find_cluster", none)


def call(*args: str | Path) -> Result:
    return CliRunner().invoke(cli, ["bench", "serve", *map(str, args)])


def test_the_whole_of_it(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    with answering(streamed()) as endpoint:
        done = call(
            "--url", endpoint.url, "--endpoint", "chat", "--concurrency", 4, "--rounds", 2, "--osl", 6, "--warmup", 1,
            "--goodput", "ttft:10000", "tpot:10000", "--num-gpus", 2, "--json", file,
        )  # fmt: skip
        assert done.exit_code == 0, done.output
        assert len(endpoint.asked) == 9
    for words in ("Successful requests", "per GPU (tok/s), 2 GPUs", "Request goodput (req/s), ttft:10000 tpot:10000"):
        assert words in done.stdout
    for row in ("TTFT [ms]", "TPOT [ms]", "ITL [ms]", "E2EL [ms]"):
        assert row in done.stdout
    assert "fake-model: ISL 128, OSL 6" in done.stderr
    report = msgspec.json.decode(file.read_bytes(), type=ServeReport)
    assert (report.completed, report.total_output_tokens, report.num_gpus) == (8, 48, 2)
    assert report.request_goodput == pytest.approx(report.request_throughput)
    assert {"mean_ttft_ms", "p99_itl_ms", "median_e2el_ms", "request_throughput"} <= set(json.loads(file.read_bytes()))


def test_the_same_seed_asks_the_same() -> None:
    args = ("--num-prompts", 6, "--isl", "4:30", "--osl", "2:9", "--concurrency", 1)
    asked = []
    for seed in (1, 1, 2):
        with answering(streamed()) as endpoint:
            done = call("--url", endpoint.url, *args, "--seed", seed)
            assert done.exit_code == 0, done.output
            asked.append(endpoint.asked)
    assert asked[0] == asked[1] != asked[2]


def test_all_failed() -> None:
    with answering(refused(429, "full")) as endpoint:
        done = call("--url", endpoint.url, "--num-prompts", 5)
    assert done.exit_code == 1
    assert "HTTP 429" in done.stdout
    assert "HTTP 429: full" in done.stderr
    assert "no request was answered" in done.stderr


def test_nobody_is_there() -> None:
    done = call("--url", "http://127.0.0.1:9")
    assert done.exit_code == 1
    assert "http://127.0.0.1:9 does not answer" in done.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--rounds", "2", "--num-prompts", "3"], "give one of them"),
        (["--rounds", "2", "--request-rate", "3"], "multiple of --concurrency"),
        (["--extra-body", "[1]"], "not a JSON object"),
        (["--extra-body", '{"stream": true}'], "that is what --no-stream says"),
        (["--goodput", "ttft"], "--goodput ttft: a target is NAME:MS"),
        (["--goodput", "ttft:1", "ttft:2"], "each once"),
        (["--goodput", "ttft:-1"], "--goodput ttft:-1"),
        (["tpot:3"], "unexpected extra argument (tpot:3)"),
        (["--ramp-to", "3"], "give --request-rate"),
        (["--arrivals", "constant", "--burstiness", "3"], "--burstiness is about random gaps"),
        (["--save-detailed"], "give it, too"),
        (["--turns", "2"], "give --endpoint chat"),
    ],
)
def test_options_that_are_wrong(args: list[str], words: str) -> None:
    with answering(streamed()) as endpoint:
        done = call("--url", endpoint.url, *args)
        assert not endpoint.asked
    assert done.exit_code == 2, done.output
    assert words in done.stderr


def test_a_key_may_come_through_a_pipe() -> None:
    with answering(streamed()) as endpoint:
        for key, exit_code in (("sk-1\n", 0), ("two words", 2)):
            reading, writing = os.pipe()
            os.write(writing, key.encode())
            os.close(writing)
            done = call("--url", endpoint.url, "--num-prompts", 1, "--api-key-file", f"/dev/fd/{reading}")
            os.close(reading)
            assert done.exit_code == exit_code, done.output
        assert endpoint.headers["Authorization"] == "Bearer sk-1"
    assert "holds no key" in done.stderr


def test_forms_of_goodput() -> None:
    found = {"ttft": 500.0, "tpot": 30.5}
    assert goodput_of(["ttft:500"], ["tpot:30.5"]) == found
    assert goodput_of(["ttft:500 tpot:30.5"], []) == found
    assert goodput_of(["ttft:500", "tpot:30.5"], []) == found
    assert goodput_of(["ttft:500,tpot:30.5"], []) == found
    assert goodput_of([], []) == {}


def load(**said: Any) -> Any:
    nothing: dict[str, Any] = dict.fromkeys(
        ("url", "concurrency", "request_rate", "num_prompts", "rounds", "extra_body", "num_gpus", "num_cores")
    )
    return load_of(**{**nothing, "arrivals": "exponential", "no_stream": False, **said})


def test_what_is_taken_where_nothing_is_said() -> None:
    assert (load().url, load().concurrency, load().num_prompts) == ("http://localhost:8000", 16, 100)
    assert load(request_rate=2.0).concurrency is None
    assert load(concurrency=5, rounds=3).num_prompts == 15
    assert load(url="http://x", num_cores=3).num_cores == 3


def server(name: str, **said: Any) -> ServerStatus:
    role = "proxy" if name == "proxy" else "context"
    return ServerStatus(**{"name": name, "role": role, "state": "ready", **said})


@pytest.mark.parametrize(
    ("servers", "num_gpus", "num_cores"),
    [
        ([server("proxy", cores=[7]), server("a", cores=[0, 1]), server("b", cores=[1, 2])], 0, 3),
        ([server("a", gpus=["0", "1"], cores=[0]), server("b", gpus=["1"])], 2, 0),
        ([server("a", gpus=["0"], nodes=["n1"]), server("b", gpus=["0", "1"], nodes=["n2", "n2"])], 3, 0),
        ([server("a", gpus=["0", "0"], nodes=["n1", "n2"])], 2, 0),
        ([server("a", gpus=["0"]), server("b", gpus=["1"], state="failed")], 1, 0),
    ],
)
def test_what_a_cluster_runs_on(
    monkeypatch: pytest.MonkeyPatch, servers: list[ServerStatus], num_gpus: int, num_cores: int
) -> None:
    status = replace(BUSY, servers=servers, others=[])
    monkeypatch.setattr(serve_target, "_running", lambda: [status])
    assert serve_target.find_target(f"{status.url}/") == (f"{status.url}/", num_gpus, num_cores)
    for url in (f"{status.url}/v1", status.url.replace("127.0.0.1", "localhost")):
        assert serve_target.find_target(url) == (url, num_gpus, num_cores)
    assert serve_target.find_target("http://other:8000") == ("http://other:8000", 0, 0)
    monkeypatch.setattr(serve_target, "_running", lambda: [replace(status, others=BUSY.others)])
    assert serve_target.find_target(status.url) == (status.url, 0, 0)


def test_of_several_clusters_one_is_named_by_its_url(monkeypatch: pytest.MonkeyPatch) -> None:
    def several(_: str | None) -> None:
        raise ConfigError("several clusters run")

    monkeypatch.setattr(serve_target, "find_cluster", several)
    monkeypatch.setattr(serve_target, "_running", lambda: [BUSY, replace(BUSY, url="http://127.0.0.1:9")])
    with pytest.raises(ConfigError, match=f"{BUSY.url}, http://127.0.0.1:9; name the one you mean with --url"):
        serve_target.find_target(None)
