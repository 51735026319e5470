"""The page on KV transfers names every variable with its key, and every backend."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from trtdisagg.config.environment import DEFAULTS, VARIABLES
from trtdisagg.config.key_types import Backend
from trtdisagg.config.server_keys import CacheTransceiverConfig
from trtdisagg.config.upstream import TABLE
from trtdisagg.supervisor.doctor.variables import TRAPS

PAGE = (Path(__file__).parents[3] / "docs" / "kv-transfer.md").read_text()


def test_variables() -> None:
    defaults = CacheTransceiverConfig()
    for variable in VARIABLES:
        (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{variable.name}`")]
        _, _, key, values, _ = (cell.strip() for cell in line.split("|"))
        assert key == f"`{variable.key}`"
        if variable.key in TABLE[CacheTransceiverConfig]:
            assert values.endswith("no effect")
            continue
        ours = str(getattr(defaults, variable.key))
        assert values.rpartition(", ")[2].strip("`").lower() == ours.lower()
    for name in DEFAULTS:
        assert name in PAGE or name == "TRTLLM_USE_MOONCAKE_KVCACHE"


def test_backends() -> None:
    for backend in get_args(Backend):
        assert f"\n| `{backend}` |" in PAGE


def test_what_the_doctor_knows_of_ucx() -> None:
    known = {trap.name for trap in TRAPS if trap.name.startswith("UCX_")} - {"UCX_RNDV_SCHEME"}
    assert [name for name in known if name not in PAGE] == []
