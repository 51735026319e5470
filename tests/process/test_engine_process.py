"""The engine as the program it is: started from a spec file, asked over HTTP, ended by signals."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path

import msgspec
import pytest
from helpers import tiny_model
from helpers.engine_process import Engine, ask_context, make_spec, started
from helpers.waiting import DEADLINE_S

from trtdisagg.protocol.commands import SwitchRole
from trtdisagg.protocol.reports import Beat, Failed, Loading, Ready
from trtdisagg.protocol.spec import TransferSpec

PARENT = """
import os, subprocess, sys
spec, fd = sys.argv[1], int(sys.argv[2])
text = open(spec).read().replace('"parent_pid":1', f'"parent_pid":{os.getpid()}')
open(spec, "w").write(text)
command = int(sys.argv[3])
sys.exit(subprocess.call([sys.executable, "-m", "trtdisagg.engine", "--spec", spec], pass_fds=[fd, command]))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("model") / "tiny")


def test_requests_over_two_engines_the_last_while_the_context_server_drains(model: Path, tmp_path: Path) -> None:
    keys = {"enable_block_reuse": False, "perf_metrics_max_requests": 8}
    core = min(os.sched_getaffinity(0))
    with (
        started(make_spec(model, "context-0", **keys), tmp_path) as context,
        started(make_spec(model, "generation-0", cores=[core], **keys), tmp_path) as generation,
    ):
        for engine in (context, generation):
            assert engine.report(Loading) is not None
            ready = engine.ready()
            assert (ready.max_seq_len, ready.num_blocks, ready.dtype) == (128, 32, "float32")
        assert os.sched_getaffinity(generation.process.pid) == {core}

        whole = context.post(prompt="x" * 50, max_tokens=20, ignore_eos=True)["choices"][0]["text"]
        rest = generation.post(**ask_context(context, "x" * 50, 20))
        assert rest["choices"][0]["text"] == whole
        assert rest["usage"]["completion_tokens"] == 20
        while not (stats := generation.report(Beat).stats).num_transfers_total or stats.num_used_blocks:
            pass
        assert stats.num_transfer_failures_total == 0
        assert stats.num_transfer_bytes_total > 0
        assert sum(stats.transfer_seconds_counts) == 1
        assert stats.num_transfer_descriptors_total > 0
        _check_times(context, generation)

        rest = ask_context(context, "x" * 50, 20)
        context.process.send_signal(signal.SIGTERM)
        while not context.report(Beat).stats.num_held_blocks:
            pass
        assert context.process.poll() is None  # it drains: what it holds is still to be had
        assert generation.post(**rest)["choices"][0]["text"] == whole
        assert context.process.wait(DEADLINE_S) == 0
        while (stats := generation.report(Beat).stats).num_transfers_total < 2:
            pass
        assert stats.num_transfer_failures_total == 0
        generation.process.send_signal(signal.SIGTERM)
        assert generation.process.wait(DEADLINE_S) == 0


def _check_times(context: Engine, generation: Engine) -> None:
    """Of a request that ran whole on one server, and of one that was handed over."""
    whole, first = json.loads(context.get("/perf_metrics"))
    assert "kv_cache_size" not in whole["perf_metrics"]["timing_metrics"]
    [rest] = json.loads(generation.get("/perf_metrics"))
    assert "ctx_request_id" not in whole
    assert rest["ctx_request_id"] == first["ctx_request_id"] == first["request_id"]
    times = rest["perf_metrics"]["timing_metrics"]
    order = ["server_arrival_time", "arrival_time", "kv_cache_transfer_start", "kv_cache_transfer_end"]
    order += ["first_scheduled_time", "first_token_time", "server_first_token_time", "last_token_time"]
    assert [times[key] for key in order[:6]] == sorted(times[key] for key in order[:6])
    assert times["first_token_time"] <= times["server_first_token_time"]
    assert times["first_token_time"] < times["last_token_time"]
    assert times["kv_cache_size"] > 0
    steps = rest["perf_metrics"]
    assert steps["last_iter"] - steps["first_iter"] == 18, "one token was there, and each step gave one"
    assert json.loads(generation.get("/perf_metrics")) == [], "they are told once"


def test_a_server_in_the_other_role_keeps_weights_blocks_and_answers(model: Path, tmp_path: Path) -> None:
    with (
        started(make_spec(model, "context-0", role="context", enable_block_reuse=False), tmp_path) as one,
        started(make_spec(model, "generation-0", role="generation", enable_block_reuse=False), tmp_path) as other,
    ):
        ready = {engine: engine.ready() for engine in (one, other)}
        texts = [other.post(**ask_context(one, "x" * 50, 9))["choices"][0]["text"]]
        for engine, role in ((one, "generation"), (other, "context")):
            engine.command(SwitchRole(role=role))
            assert engine.ready() == msgspec.structs.replace(ready[engine], role=role)
            assert json.loads(engine.get("/server_info"))["role"] == role
            assert engine.get("/health_generate") == b'{"status":"ok"}'
        texts.append(one.post(**ask_context(other, "x" * 50, 9))["choices"][0]["text"])
        assert texts[0] == texts[1]
        while not sum((stats := one.report(Beat).stats).per_token_counts):  # told at a request's end
            pass
        assert (stats.num_transfers_total, stats.num_transfer_failures_total) == (1, 0)
        assert stats.transfer_seconds_total > 0
        assert sum(stats.first_token_counts) == 2
        assert sum(stats.per_token_counts) == 1


def test_engine_ends_with_its_parent(model: Path, tmp_path: Path) -> None:
    spec = make_spec(model, "context-0", parent_pid=1, transfer=TransferSpec())
    with started(spec, tmp_path, ["-c", PARENT]) as parent:
        assert parent.report(Loading) is not None
        parent.process.kill()
        while parent.report(Loading, Ready, Beat):  # the pipe ends with the engine, the last that has it
            pass


def test_no_model_is_one_clear_message(tmp_path: Path) -> None:
    with started(make_spec(tmp_path / "nothing", "context-0"), tmp_path) as engine:
        failed = engine.report(Failed)
        assert "There is no model at" in failed.message
        assert engine.process.wait(DEADLINE_S) == 1


def test_port_in_use_is_found_before_anything_is_loaded(model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        spec = make_spec(model, "context-0", port=taken.getsockname()[1])
        with started(spec, tmp_path) as engine:
            report = engine.report(Loading, Failed)
            assert isinstance(report, Failed)
            assert f"in use by pid {os.getpid()}" in report.message
            assert engine.process.wait(DEADLINE_S) == 1


def test_spec_that_does_not_fit_the_model(model: Path, tmp_path: Path) -> None:
    with started(make_spec(model, "context-0", max_seq_len=1000), tmp_path) as engine:
        failed = engine.report(Failed)
        assert failed.fatal
        assert "knows 256 positions" in failed.message
        assert engine.process.wait(DEADLINE_S) == 2
