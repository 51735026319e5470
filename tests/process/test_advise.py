"""`trtdisagg advise` on clusters that it brings up: of the light engine, whose times mean nothing."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import anyio
import msgspec
import psutil
import pytest
from helpers.plans import FAKE_ENGINE

from trtdisagg.bench.advise.measure.cluster import Running
from trtdisagg.bench.advise.measure.measure import measure_profile
from trtdisagg.bench.program import MeasureError


def cluster_file(directory: Path, *misbehaviour: str) -> Path:
    section = msgspec.json.encode({"command": [*FAKE_ENGINE, *misbehaviour], "max_seq_len": 2048}).decode()
    file = directory / "cluster.yaml"
    file.write_text(f"model: smollm2-135m-instruct\ncontext_servers: {section}\ngeneration_servers: {section}\n")
    return file


def measured(file: Path, seen: list[Running]) -> None:
    sizes: dict[str, Any] = {"max_prompt": 128, "max_streams": 4, "seconds": 60.0}
    measure = functools.partial(measure_profile, **sizes, stage=lambda _: None, while_up=seen.append)
    profile = anyio.run(measure, file, [])
    assert profile.model == "smollm2-135m-instruct"
    assert profile.servers.keys() == {"context", "generation", "aggregated"}
    for server in profile.servers.values():
        assert [prefill.num_tokens for prefill in server.prefills] == [1, 4, 16, 64, 128]
        assert [decode.num_streams for decode in server.decodes] == [1, 2, 4, 4]
        assert all(point.seconds > 0 for point in (*server.prefills, *server.decodes))
    assert profile.servers["aggregated"].num_cores >= profile.servers["generation"].num_cores > 0
    assert all(getattr(profile.neighbours, name) >= 1 for name in profile.neighbours.__struct_fields__)
    assert [handover.num_tokens for handover in profile.handovers] == [16, 32, 128]


def test_both_clusters_are_measured_and_gone_afterwards(tmp_path: Path) -> None:
    seen: list[Running] = []
    measured(cluster_file(tmp_path, "--token-delay-ms", "3"), seen)
    roles = [[server.role for server in running.status.servers] for running in seen]
    assert roles == [["proxy", "context", "generation"], ["proxy", "generation"]]
    pids = [pid for running in seen for server in running.status.servers for pid in server.pids]
    assert pids
    assert not [pid for pid in pids if psutil.pid_exists(pid)]


def test_a_cluster_that_does_not_come_up_is_told_with_its_reason(tmp_path: Path) -> None:
    with pytest.raises(MeasureError, match=r"(context|generation)-0 did not start: exit status 2"):
        measured(cluster_file(tmp_path, "--no-such-flag"), [])
