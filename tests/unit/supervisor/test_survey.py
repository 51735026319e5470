from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.config.supervisor_keys import DisaggCluster
from trtdisagg.errors import StartupError
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor import survey as module
from trtdisagg.supervisor.survey import survey

_COMMAND = ServerSection(command=["my-engine"])


def test_a_program_of_the_users_own_may_know_a_model_that_we_do_not() -> None:
    plan = survey(ClusterFile(model="dir/unknown", generation_servers=_COMMAND), name="test", with_proxy=False)
    spec = plan.servers[0].spec
    assert isinstance(spec, EngineSpec)
    assert (spec.model, spec.model_path) == ("unknown", "dir/unknown")


def test_the_builtin_engine_needs_a_model() -> None:
    file = ClusterFile(model="no-such-model", context_servers=_COMMAND, generation_servers=ServerSection())
    with pytest.raises(StartupError, match="There is no model `no-such-model`"):
        survey(file, name="test")


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolve(name: str) -> None:
        asked.append(name)
        raise StartupError("enough")

    monkeypatch.setattr(module, "resolve_model", resolve)
    (tmp_path / "weights.gguf").touch()
    for model in ("weights.gguf", "org/model", "an-alias"):
        survey(ClusterFile(model=model, generation_servers=_COMMAND), name="test", file=tmp_path / "cluster.yaml")
    assert asked == [str(tmp_path / "weights.gguf"), "org/model", "an-alias"]


def test_a_secret_that_others_can_read_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    cluster = ClusterFile(model="x", generation_servers=_COMMAND, secret_file="secret")
    with pytest.raises(StartupError, match="cannot be read: No such file"):
        survey(cluster, name="test", file=tmp_path / "cluster.yaml")
    secret.write_text("word")
    secret.chmod(0o644)
    with pytest.raises(StartupError, match=r"can be read by others; `chmod 600` it"):
        survey(cluster, name="test", file=tmp_path / "cluster.yaml")
    secret.chmod(0o600)
    plan = survey(cluster, name="test", file=tmp_path / "cluster.yaml")
    assert (plan.secret_file, plan.makes_secret) == (str(secret), False)


def test_files_of_a_registry_are_relative_to_the_file(tmp_path: Path) -> None:
    registry = DisaggCluster(cluster_uri="etcds://a:2379", password_file="password", ca_file="/etc/ca.pem")
    cluster = ClusterFile(model="x", generation_servers=_COMMAND, disagg_cluster=registry)
    plan = survey(cluster, name="test", file=tmp_path / "cluster.yaml")
    assert plan.registry is not None
    assert (plan.registry.password_file, plan.registry.ca_file) == (str(tmp_path / "password"), "/etc/ca.pem")


def test_what_runs_beside_reaches_the_plan() -> None:
    cluster = ClusterFile(
        model="x", context_servers=_COMMAND, generation_servers=ServerSection(command=["my-engine"], num_instances=2)
    )
    before = survey(cluster, name="test")
    keep = {child.name: child for child in before.children}
    after = survey(cluster, name="test", numbers={"generation": [1, 2]}, keep=keep, roles={"generation-1": "context"})
    assert [(s.name, s.role) for s in after.servers] == [("generation-1", "context"), ("generation-2", "generation")]
    assert after.servers[0].settings == before.servers[2].settings


def test_only_a_process_holds_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = ClusterFile(model="x", generation_servers=ServerSection(command=["my-engine"], num_instances=3))
    before = survey(cluster, name="test")
    keep = {child.name: replace(child, rank_weights=[2**40]) for child in before.servers}
    keep["generation-2"] = replace(keep["generation-2"], gpus=["0"])
    seen: list[dict[str, int] | None] = []

    def note(*_: object, resident: dict[str, int] | None, **__: object) -> None:
        seen.append(resident)

    monkeypatch.setattr(module, "make_plan", note)
    survey(cluster, name="test", keep=keep)
    survey(cluster, name="test", keep=keep, pids={"generation-1": [os.getpid()], "generation-2": [os.getpid()]})
    assert seen[0] is None
    assert seen[1] is not None
    assert seen[1]["generation-0"] == 0
    assert 2**20 < seen[1]["generation-1"] < 2**40
    assert seen[1]["generation-2"] == 2**40
