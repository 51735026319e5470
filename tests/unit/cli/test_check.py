"""`check`: the plan on stdout, what there is to say about it on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from trtdisagg.cli.main import cli
from trtdisagg.cli.plan_view import size

EXAMPLES = Path(__file__).parents[3] / "examples"


def check(file: str, *options: str) -> Result:
    result = CliRunner().invoke(cli, ["check", str(EXAMPLES / file), *options])
    assert result.exit_code == 0, result.output
    return result


def rows(result: Result) -> dict[str, list[str]]:
    return {line.split()[0]: line.split() for line in result.stdout.splitlines() if line}


def test_servers_that_run_already() -> None:
    result = check("trtllm_disagg_config.yaml")
    table = rows(result)
    assert table["context-1"][:4] == ["context-1", "context", "-", "localhost:8002"]
    assert result.stdout.count("(runs already)") == 3
    assert result.stderr.count("no effect here, because the servers of this file run already") == 1


@pytest.mark.real_model
def test_servers_that_are_ours() -> None:
    result = check("two_by_one.yaml")
    table = rows(result)
    assert [name for name in table if name.startswith("context-")] == ["context-0", "context-1"]
    row = " ".join(table["generation-0"])
    assert "generation smollm2-135m-instruct 127.0.0.1 any port cpu " in row
    assert row.endswith("1024 blocks of 32 tokens, 720 MiB, max utilization")


def test_programs_of_others_are_shown(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: mine\ngeneration_servers: {command: [numactl, '-l', x], max_seq_len: 64}\n")
    table = rows(CliRunner().invoke(cli, ["check", str(file)]))
    assert table["generation-0"][-3:] == ["numactl", "-l", "x"]
    assert table["proxy"][-4:] == ["python", "-m", "trtdisagg", "proxy"]


@pytest.mark.real_model
def test_each_key_without_effect_once() -> None:
    stderr = check("trtllm_model_and_urls.yaml").stderr
    assert stderr.count("context_servers.free_gpu_memory_fraction: no effect here, because") == 1


def test_what_was_set_is_shown_beside_what_the_file_says() -> None:
    result = check("trtllm_disagg_config.yaml", "--set", "port=9000", "--set", "max_retries=3")
    assert "--set port = 9000 (the file: 8000)" in result.stdout
    assert "--set max_retries = 3 (the file does not say)" in result.stdout


TRANSFER_FILE = """\
model: mine
cache_transceiver_config: {max_tokens_in_buffer: 4096}
context_servers: {command: [x], num_instances: 2, max_seq_len: 4096, kv_cache_config: {max_tokens: 8192}}
generation_servers: {command: [x], max_seq_len: 4096, kv_cache_config: {max_tokens: 8192}}
"""


def test_each_value_of_the_transfer_and_where_it_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTLLM_KVCACHE_TRANSFER_BUFFER_SIZE", "64MB")
    monkeypatch.setenv("UCX_TLS", "sm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(TRANSFER_FILE)
    given = ["--set", "generation_servers.cache_transceiver_config.backend=LOCAL"]
    result = CliRunner().invoke(cli, ["check", "c.yaml", *given])
    assert result.exit_code == 0, result.output
    shown = {line.split()[0]: " ".join(line.split()) for line in result.stdout.splitlines() if line.strip()}
    assert shown["KV"] == "KV transfer context_servers generation_servers", "a section once, with two servers"
    variable = "64MB (environment TRTLLM_KVCACHE_TRANSFER_BUFFER_SIZE)"
    assert shown["buffer_size"] == f"buffer_size {variable} {variable}"
    assert shown["max_tokens_in_buffer"] == "max_tokens_in_buffer 4096 (c.yaml:2) 4096 (c.yaml:2)"
    origin = "(--set generation_servers.cache_transceiver_config.backend)"
    assert shown["backend"] == f"backend DEFAULT LOCAL {origin}"
    assert shown["transports"] == "transports local, nixl local"
    assert shown["zero_copy"] == "zero_copy false false"
    assert shown["servers"] == "servers inherit UCX_TLS=sm"

    report = json.loads(CliRunner().invoke(cli, ["check", "c.yaml", *given, "--json"]).stdout)["transfer"]
    assert report["context_servers"]["buffer_size"]["origin"] == "environment TRTLLM_KVCACHE_TRANSFER_BUFFER_SIZE"
    assert report["generation_servers"]["zero_copy"] == {"value": False, "origin": "default"}


def test_what_is_set_wrong_is_said() -> None:
    result = CliRunner().invoke(cli, ["check", str(EXAMPLES / "smollm2.yaml"), "--set", "prot=9000"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error: --set prot: unknown key; did you mean port?" in result.stderr


def test_json_of_servers_that_run_already() -> None:
    result = check("trtllm_disagg_config.yaml", "--json", "--set", "port=9000")
    report = json.loads(result.stdout)
    assert [server["url"] for server in report["upstream"]] == ["localhost:8001", "localhost:8002", "localhost:8003"]
    assert (report["proxy"]["spec"]["port"], report["servers"]) == (9000, [])
    assert report["set"] == [{"path": "port", "value": 9000, "was": 8000}]
    assert len(report["fingerprint"]) == 16
    assert "no effect here" in report["no_effect"][0]


def test_json_has_no_secrets(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("model: mine\ngeneration_servers: {command: [x], env: {HF_TOKEN: abc, API_KEY: abc, KEYS: '1'}}\n")
    given = "generation_servers.env.MY_SECRET=abc"
    result = CliRunner().invoke(cli, ["check", str(file), "--json", "--set", given])
    assert result.exit_code == 0, result.output
    assert "abc" not in result.output
    env = json.loads(result.stdout)["servers"][0]["env"]
    assert (env["HF_TOKEN"], env["API_KEY"], env["MY_SECRET"], env["KEYS"]) == ("***", "***", "***", "1")
    assert "abc" not in CliRunner().invoke(cli, ["check", str(file), "--set", given]).output


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (737_280, "720 KiB"),
        (2 << 30, "2.0 GiB"),
        (5 << 50, "5120 TiB"),
    ],
)
def test_size(num_bytes: int, words: str) -> None:
    assert size(num_bytes) == words


NODES_FILE = """\
model: mine
context_servers: {num_instances: 2, tensor_parallel_size: 4}
generation_servers: {urls: [\"node3:8001\", \"elsewhere:8001\"], num_instances: 2, tensor_parallel_size: 8}
"""


def test_what_would_be_where_on_nodes_that_are_not_there(tmp_path: Path) -> None:
    """No machine and no model is looked at, so neither has to be there."""
    file = tmp_path / "cluster.yaml"
    file.write_text(NODES_FILE)
    table = rows(check(str(file), "--nodes", "3", "--gpus-per-node", "8"))
    assert table["context-0"] == ["context-0", "context", "4", "node1"]
    assert table["generation-0"] == ["generation-0", "generation", "8", "node3"]
    assert table["generation-1"] == ["generation-1", "generation", "-", "elsewhere:8001", "(runs", "already)"]
    report = json.loads(check(str(file), "--nodes", "3", "--gpus-per-node", "8", "--json").stdout)
    assert report["nodes"]["context-1"] == ["node1"] * 4


def test_servers_that_do_not_fit_on_the_nodes(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(NODES_FILE)
    result = CliRunner().invoke(cli, ["check", str(file), "--nodes", "3", "--gpus-per-node", "4"])
    assert result.exit_code == 2
    assert "generation-0 needs 8 GPUs on node3 (by generation_servers.urls)" in result.stderr
    assert CliRunner().invoke(cli, ["check", str(file), "--gpus-per-node", "4"]).exit_code == 2
