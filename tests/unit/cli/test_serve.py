"""`serve`: options become the plan of one server."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from trtdisagg.cli import foreground
from trtdisagg.cli.main import cli
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor.plan import Plan

pytestmark = pytest.mark.real_model


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Plan]:
    """Collects what would have been run."""
    collected: list[Plan] = []

    def run(plan: Plan, _place: object) -> int:
        collected.append(plan)
        return 0

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(foreground, "run_with_lines", run)
    return collected


def serve(plans: list[Plan], *options: str) -> tuple[Plan, EngineSpec, str]:
    result = CliRunner().invoke(cli, ["serve", "smollm2-135m-instruct", *options])
    assert result.exit_code == 0, result.output
    plan = plans.pop()
    assert plan.proxy is None
    (server,) = plan.servers
    assert isinstance(server.spec, EngineSpec)
    return plan, server.spec, result.stderr


SPELLINGS = [["--role", "context"], ["--server_role", "CONTEXT"], ["--server-role", "context"]]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_context_server(plans: list[Plan], spelling: list[str]) -> None:
    _, spec, _ = serve(plans, *spelling, "--port", "8101", "--max_seq_len", "512", "--dtype", "float32")
    assert (spec.role, spec.host, spec.port) == ("context", "127.0.0.1", 8101)
    assert (spec.max_seq_len, spec.dtype) == (512, "float32")
    assert spec.transfer.transports, "a role of its own is for handing over"


def test_a_server_of_both_roles_hands_nothing_over_unless_told(plans: list[Plan]) -> None:
    _, spec, _ = serve(plans, "--port", "0")
    assert (spec.role, spec.port, spec.transfer.transports) == ("both", 0, [])
    _, spec, _ = serve(plans, "--port", "0", "--cache_transceiver_backend", "NIXL")
    assert spec.transfer.transports == ["nixl"]


def test_a_worker_file_and_options_without_effect(plans: list[Plan]) -> None:
    Path("w.yaml").write_text("max_batch_size: 7\nprint_iter_log: true\ncache_transceiver_config: {backend: LOCAL}\n")
    _, spec, stderr = serve(
        plans,
        "--role",
        "generation",
        "--extra_llm_api_options",
        "w.yaml",
        "--trust_remote_code",
        "--backend",
        "pytorch",
    )
    assert (spec.max_batch_size, spec.transfer.transports) == (7, ["local"])
    assert stderr.count("no effect here") == 2
    assert "w.yaml:2: generation_servers.print_iter_log: no effect here" in stderr
    assert "--trust_remote_code: generation_servers.trust_remote_code: no effect here" in stderr


def test_the_fraction_counts(plans: list[Plan]) -> None:
    Path("w.yaml").write_text("max_seq_len: 64\nkv_cache_config: {max_tokens: 100000000}")
    options = ["--config", "w.yaml", "--kv_cache_free_gpu_memory_fraction"]
    few = serve(plans, *options, "0.05")[1].num_blocks
    many = serve(plans, *options, "0.2")[1].num_blocks
    assert few < many


@pytest.mark.parametrize("spelling", ["--config", "--extra_llm_api_options"])
def test_an_error_in_a_worker_file_names_the_option_as_it_was_given(spelling: str) -> None:
    result = CliRunner().invoke(cli, ["serve", "m", spelling, "nowhere.yaml"])
    assert result.exit_code == 2
    assert f"error: {spelling}: " in result.stderr
    assert "nowhere.yaml: no such file" in result.stderr


def test_two_spellings_of_one_option() -> None:
    result = CliRunner().invoke(cli, ["serve", "m", "--config", "a", "--extra_llm_api_options", "b"])
    assert result.exit_code == 2
    assert "--config and --extra_llm_api_options mean the same" in result.stderr


def test_the_command_line_of_trtllm_serve(plans: list[Plan]) -> None:
    """What nobody has to change: the rest has no effect, which is said, or asks for nothing."""
    line = "--tensor_parallel_size 1 --moe_expert_parallel_size 1 --max_beam_width 1 --enable_chunked_prefill"
    _, spec, stderr = serve(plans, *line.split(), "--num_postprocess_workers", "2", "--log_level", "info")
    assert spec.enable_chunked_prefill
    assert stderr.count("no effect here") == 2
    assert "--log_level: no effect here, because" in stderr
    assert "--num_postprocess_workers: num_postprocess_workers: no effect here" in stderr


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--tokenizer", "other", "a tokenizer, revision or parser other than the model's own"),
        ("--context_parallel_size", "2", "context parallelism"),
        ("--disagg_cluster_uri", "http://localhost:8000", "trtdisagg join --cluster http://localhost:8000"),
    ],
)
def test_what_trtllm_serve_has_and_we_have_not(option: str, value: str, said: str) -> None:
    result = CliRunner().invoke(cli, ["serve", "m", option, value])
    assert result.exit_code == 2
    assert said in result.stderr
