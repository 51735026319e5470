"""How the probe is run: as servers will be, and what is made of its end."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import msgspec
import pytest
from helpers import tiny_model
from helpers.plans import cluster_file, host, plan_of
from msgspec.structs import replace

from trtdisagg.config.server_keys import CacheTransceiverConfig, ServerSection
from trtdisagg.protocol.probe import Layouts, Library
from trtdisagg.supervisor.doctor import Probed, probe, probing
from trtdisagg.supervisor.plan import Plan

ECHO = """\
import os, sys
words = " ".join([*sys.argv[3:], os.environ.get("CUDA_VISIBLE_DEVICES", "-")])
print('{"type":"library","name":"torch","version":"%s"}' % words)
"""


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Has another program run in place of the probe: its arguments begin behind `-m MODULE`."""
    program = tmp_path / "python"
    program.write_text(f"#!{sys.executable}\n{code}")
    program.chmod(stat.S_IRWXU)
    monkeypatch.setattr(sys, "executable", str(program))


def said(probed: Probed) -> str:
    (line,) = probed.lines
    assert isinstance(line, Library)
    return str(line.version)


def plan(num_gpus: int, *backends: str) -> Plan:
    context, generation = (
        ServerSection(cache_transceiver_config=CacheTransceiverConfig(backend=backend))  # type: ignore[arg-type]
        for backend in backends
    )
    return plan_of(cluster_file(context_servers=context, generation_servers=generation), host(num_gpus=num_gpus))


@pytest.mark.parametrize(
    ("num_gpus", "backends", "words"),
    [
        (0, ["DEFAULT", "NIXL"], "--transports local,nixl --device cpu --peer-device cpu "),
        (0, ["LOCAL", "LOCAL"], "--transports local --device cpu --peer-device cpu "),
        (2, ["NIXL", "NIXL"], "--transports nixl --device cuda:1 --peer-device cuda:0 0,1"),
        (2, ["UCX", "UCX"], "--transports ucx --device cuda:1 --peer-device cuda:0 0,1"),
    ],
)
def test_it_is_run_as_servers_will_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_gpus: int, backends: list[str], words: str
) -> None:
    stand_in(tmp_path, monkeypatch, ECHO)
    (probed,) = probe(plan(num_gpus, *backends))
    assert said(probed) == f"--timeout 60 {words}"
    assert probed.pairs == ["context-0 -> generation-0"]


def test_once_for_each_two_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, ECHO)
    on_gpus = [ServerSection(num_instances=2, gpus=gpus) for gpus in (["0"], ["1", "2"])]
    there = plan_of(cluster_file(context_servers=on_gpus[0], generation_servers=on_gpus[1]), host(num_gpus=3))
    trials = {said(probed).partition("--device ")[2]: probed.pairs for probed in probe(there)}
    assert trials == {
        "cuda:1 --peer-device cuda:0 0,1,2": ["context-0 -> generation-0", "context-1 -> generation-0"],
        "cuda:2 --peer-device cuda:0 0,1,2": ["context-0 -> generation-1", "context-1 -> generation-1"],
    }


def test_nothing_more_is_tried_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "import sys; sys.exit(3)")
    assert len(list(probe(plan_of(cluster_file(), host(num_gpus=4))))) == 1


def test_without_a_plan_everything_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    stand_in(tmp_path, monkeypatch, ECHO)
    (probed,) = probe(None, timeout_s=7)
    assert said(probed) == "--timeout 7 --transports local,nixl --device cpu --peer-device cpu -"


def test_what_it_said_before_it_died_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(
        tmp_path,
        monkeypatch,
        ECHO + "sys.stderr.write('one\\nlast words\\n[1.5] [node:1 :0] x UCX  INFO more\\n'); sys.exit(3)",
    )
    (probed,) = probe(None)
    assert (len(probed.lines), probed.error) == (1, "last words")


def test_one_that_ignores_its_deadline_is_killed_with_what_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it started holds its pipes: while it lives, nobody returns."""
    stand_in(tmp_path, monkeypatch, "import os, time\nos.fork()\ntime.sleep(600)\n")
    monkeypatch.setattr(probing, "_GRACE_S", 0.5)
    (probed,) = probe(None, timeout_s=1)
    assert probed.error == "it did not end within 1 s"


def test_layouts_that_differ_are_tried_in_their_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sections = [ServerSection(tensor_parallel_size=tp, dtype="float32") for tp in (2, 1)]
    there = plan_of(cluster_file(context_servers=sections[0], generation_servers=sections[1]), host())
    model = str(tiny_model.write(tmp_path / "tiny"))
    servers = [replace(s, spec=replace(s.spec, model_path=model)) for s in there.servers]  # type: ignore[arg-type]
    stand_in(tmp_path, monkeypatch, ECHO.replace("sys.argv[3:]", "[]") + "open('argv', 'w').write(sys.argv[-1])\n")
    monkeypatch.chdir(tmp_path)
    servers = [replace(s, argv=[sys.executable, *s.argv[1:]]) for s in servers]
    assert len(list(probe(replace(there, servers=servers)))) == 1
    layouts = msgspec.json.decode((tmp_path / "argv").read_bytes(), type=Layouts)
    assert (layouts.mine.parallel.tp_size, layouts.theirs.parallel.tp_size) == (1, 2)
    assert layouts.mine.num_kv_heads == layouts.theirs.num_kv_heads == 2
