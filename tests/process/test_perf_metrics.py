"""`/perf_metrics` of a real proxy in front of two real engines: one request from its arrival to its last token."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path
from typing import Any

import anyio
from helpers import tiny_model
from helpers.cluster import runtime_directory
from helpers.engine_process import Engine, make_spec, started
from helpers.serving import PROXY, Child

from trtdisagg.protocol.proxy_spec import ProxySpec, UpstreamServer
from trtdisagg.protocol.trace import Trace
from trtdisagg.registry.client import get_traces

TIMEOUT_S = 90


def ask(url: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(f"http://{url}{path}", data, timeout=TIMEOUT_S) as answer:
        return json.loads(answer.read())


def upstream(engine: Engine, name: str, role: Any) -> UpstreamServer:
    return UpstreamServer(name=name, role=role, model="tiny", url=engine.url.removeprefix("http://"))


def test_a_request_over_two_servers(tmp_path: Path) -> None:
    model = tiny_model.write(tmp_path / "tiny")
    keys: dict[str, Any] = {"enable_block_reuse": False, "perf_metrics_max_requests": 8}
    with (
        started(make_spec(model, "context-0", role="context", **keys), tmp_path) as context,
        started(make_spec(model, "generation-0", role="generation", **keys), tmp_path) as generation,
    ):
        context.ready()
        generation.ready()
        servers = [upstream(context, "context-0", "context"), upstream(generation, "generation-0", "generation")]
        socket = str(runtime_directory(tmp_path) / "members.sock")
        spec = ProxySpec(
            cluster="c",
            port=0,
            servers=servers,
            perf_metrics_max_requests=8,
            parent_pid=os.getpid(),
            members_socket=socket,
        )
        proxy = Child(PROXY, spec, tmp_path / "proxy.json")
        try:
            proxy.wait_ready()
            body = {"model": "tiny", "prompt": "x" * 50, "max_tokens": 6, "ignore_eos": True, "temperature": 0}
            answer = ask(proxy.url, "/v1/completions", body)
            assert answer["usage"]["completion_tokens"] == 6
            [told] = ask(proxy.url, "/perf_metrics")
            assert ask(proxy.url, "/perf_metrics") == []
            [trace] = anyio.run(get_traces, socket, "last=1").traces
            [trace] = anyio.run(get_traces, socket, f"id={trace.request_id}").traces
        finally:
            proxy.close()
    assert (told["ctx_server"], told["gen_server"]) == (servers[0].url, servers[1].url)
    first, rest = (told[f"{half}_perf_metrics"]["perf_metrics"]["timing_metrics"] for half in ("ctx", "gen"))
    order = [
        told["disagg_server_arrival_time"],
        first["server_arrival_time"],
        first["arrival_time"],
        first["first_scheduled_time"],
        first["first_token_time"],
        told["disagg_server_first_token_time"],
        rest["arrival_time"],
        rest["kv_cache_transfer_start"],
        rest["kv_cache_transfer_end"],
        rest["first_scheduled_time"],
        rest["first_token_time"],
        rest["last_token_time"],
    ]
    assert order == sorted(order)
    assert rest["kv_cache_size"] > 0
    assert "kv_cache_size" not in first
    check_trace(trace, rest["kv_cache_size"])


def check_trace(trace: Trace, transfer_bytes: int) -> None:
    """The same request, as `trtdisagg trace` gets it."""
    assert (trace.status, trace.path) == (200, "both")
    assert [leg.server for leg in trace.legs] == ["context-0", "generation-0"]
    first, rest = (leg.on_server for leg in trace.legs)
    assert first is not None
    assert rest is not None
    order = [
        0.0,
        trace.chosen_ms,
        trace.legs[0].begun_ms,
        first.arrived_ms,
        first.scheduled_ms,
        first.first_token_ms,
        trace.legs[0].ended_ms,
        trace.legs[1].begun_ms,
        rest.arrived_ms,
        rest.transfer_begun_ms,
        rest.transfer_ended_ms,
        rest.scheduled_ms,
        rest.first_token_ms,
        rest.last_token_ms,
        trace.legs[1].ended_ms,
        trace.ended_ms,
    ]
    assert None not in order
    assert order == sorted(order)
    assert rest.transfer_bytes == transfer_bytes
