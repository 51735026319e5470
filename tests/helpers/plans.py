"""Plans for tests: a machine and a model that are made up."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nvml import Gpu
from trtdisagg.supervisor.plan import ModelFacts, Plan, make_plan
from trtdisagg.text.dimensions import ModelDimensions

GIB = 1024**3
FAKE_ENGINE = [sys.executable, str(Path(__file__).resolve().parents[1] / "fakes" / "engine.py")]

TINY = ModelDimensions(
    architecture="llama",
    num_layers=2,
    hidden_size=64,
    intermediate_size=128,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    vocab_size=256,
    max_positions=512,
    rope_theta=10000.0,
    norm_eps=1e-5,
    tie_word_embeddings=True,
    num_parameters=100_000,
    fingerprint="tiny",
)


def made_up_gpu(i: int, **changes: Any) -> Gpu:
    facts: dict[str, Any] = {"id": str(i), "uuid": f"GPU-{i}", "name": "A card", "free_bytes": 80 * GIB}
    return Gpu(**{**facts, "index": i, "total_bytes": 80 * GIB, **changes})


def host(num_cores: int = 8, num_gpus: int = 0, **changes: Any) -> Host:
    gpus = [made_up_gpu(i) for i in range(num_gpus)]
    facts: dict[str, Any] = {"cores": list(range(num_cores)), "memory_bytes": 16 * GIB, "gpus": gpus}
    return Host(**{**facts, **changes})


def plan_of(cluster: ClusterFile, machine: Host | None = None, **options: Any) -> Plan:
    """The plan of a file, whose models are all TINY."""
    names = {cluster.model, *(entry.model for entry in cluster.models)} - {None}
    facts = {str(name): ModelFacts(path=f"/models/{name}", served_name=str(name), dimensions=TINY) for name in names}
    return make_plan(cluster, name="test", host=machine or host(), **{"models": facts, **options})


def cluster_file(**keys: Any) -> ClusterFile:
    """One context and one generation server, unless the keys say otherwise."""
    sections = {"context_servers": ServerSection(), "generation_servers": ServerSection()}
    return ClusterFile(**{"model": "tiny", **sections, **keys})
