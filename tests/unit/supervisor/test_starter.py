"""A first cluster file: for every machine one that can be planned there, or a clear refusal."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest
import yaml
from helpers.plans import GIB, TINY, host
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from trtdisagg.config.load import load
from trtdisagg.errors import StartupError
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.plan import ModelFacts, Plan, make_plan
from trtdisagg.supervisor.starter import starter_file
from trtdisagg.supervisor.starter_sizes import MIN_SEQ_LEN, Sizes, choose_sizes
from trtdisagg.text.dimensions import ModelDimensions

SMOL = replace(TINY, num_layers=30, num_kv_heads=3, head_dim=64, max_positions=8192, num_parameters=134_515_008)
LARGE = replace(TINY, num_layers=32, num_kv_heads=8, head_dim=128, max_positions=131_072, num_parameters=8_030_261_248)


def text_of(machine: Host, model: ModelDimensions, name: str = "org/model") -> str:
    return starter_file(machine, name, model, file="cluster.yaml", port=8000)


def plan_of_text(directory: Path, text: str, machine: Host, model: ModelDimensions) -> Plan:
    file = directory / "cluster.yaml"
    file.write_text(text)
    loaded = load(file)
    assert loaded.no_effect == []
    name = str(loaded.cluster.model)
    models = {name: ModelFacts(path="/m", served_name="m", dimensions=model)}
    return make_plan(loaded.cluster, name=loaded.name, host=machine, models=models)


@pytest.mark.parametrize(
    ("machine", "model", "num_servers"),
    [
        (host(1, memory_bytes=4 * GIB), SMOL, (1, 1)),
        (host(8), SMOL, (1, 1)),
        (host(16, memory_bytes=64 * GIB), SMOL, (2, 2)),
        (host(128, memory_bytes=512 * GIB), SMOL, (4, 4)),
        (host(128, memory_bytes=64 * GIB), LARGE, (1, 2)),
        (host(8, num_gpus=1), LARGE, (1, 1)),
        (host(8, num_gpus=2), LARGE, (1, 1)),
        (host(64, num_gpus=5), LARGE, (2, 3)),
        (host(64, num_gpus=8), SMOL, (4, 4)),
    ],
)
def test_counts(tmp_path: Path, machine: Host, model: ModelDimensions, num_servers: tuple[int, int]) -> None:
    plan = plan_of_text(tmp_path, text_of(machine, model), machine, model)
    roles = [server.role for server in plan.servers]
    assert (roles.count("context"), roles.count("generation")) == num_servers


@settings(max_examples=60, deadline=None)
@given(
    num_cores=st.integers(1, 300),
    memory_bytes=st.integers(0, 2048 * GIB),
    num_gpus=st.integers(0, 9),
    model=st.sampled_from([TINY, SMOL, LARGE]),
)
def test_any_machine(
    tmp_path_factory: pytest.TempPathFactory,
    num_cores: int,
    memory_bytes: int,
    num_gpus: int,
    model: ModelDimensions,
) -> None:
    machine = host(num_cores, num_gpus, memory_bytes=memory_bytes)
    with contextlib.suppress(StartupError):
        sizes = choose_sizes(machine, model)
        check_sizes(tmp_path_factory.mktemp("any"), sizes, machine, model)


def check_sizes(directory: Path, sizes: Sizes, machine: Host, model: ModelDimensions) -> None:
    assert min(MIN_SEQ_LEN, model.max_positions) <= sizes.max_seq_len <= model.max_positions
    try:
        plan = plan_of_text(directory, text_of(machine, model), machine, model)
    except StartupError as e:
        pytest.fail(f"what was chosen does not fit: {e.message}")
    assert len(plan.servers) == sizes.num_context + sizes.num_generation
    if not machine.gpus:
        pools = sum(server.pool_bytes or 0 for server in plan.servers)
        assert pools + len(plan.servers) * model.weight_bytes("bfloat16") <= machine.memory_bytes


def test_too_little_memory_on_the_host() -> None:
    with pytest.raises(StartupError, match=r"on this host for 2 servers of this model: 16.0 GiB are free.*29.9 GiB"):
        choose_sizes(host(), LARGE)


def test_too_little_memory_on_a_gpu() -> None:
    machine = host(num_gpus=1)
    machine = replace(machine, gpus=[replace(machine.gpus[0], free_bytes=20 * GIB)])
    with pytest.raises(StartupError, match=r"on a GPU for 2 servers of this model: 20.0 GiB are free.*--model"):
        choose_sizes(machine, LARGE)


@pytest.mark.parametrize("machine", [host(), host(num_gpus=2)])
def test_every_key_is_explained(machine: Host) -> None:
    """Each key that is set stands below a comment, alone or with others of one block."""
    lines = text_of(machine, SMOL).splitlines()
    keys = [i for i, line in enumerate(lines) if re.match(r"\s*\w+:", line)]
    assert len(keys) >= 8
    opens_a_section = {i for i in keys if lines[i].endswith(":")}
    for i in keys:
        above = next(line for line in reversed(lines[:i]) if not re.match(r"\s*\w+: ", line))
        assert above.lstrip().startswith("#") or i in opens_a_section or i - 1 in opens_a_section, lines[i]


def test_hints_that_are_commented_out_are_right(tmp_path: Path) -> None:
    """Whoever takes the `#` away has a file that holds."""
    for machine in (host(8), host(8, num_gpus=4)):
        text = re.sub(r"^(\s*)# ((name|gpus|cores): )", r"\1\2", text_of(machine, SMOL), flags=re.MULTILINE)
        plan = plan_of_text(tmp_path, text, machine, SMOL)
        assert plan.servers[0].gpus or plan.servers[0].cores
        assert yaml.safe_load(text)["name"] == "my-cluster"


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1).filter(lambda text: text.isprintable()))
def test_any_name_of_a_model_is_read_as_it_was_given(name: str) -> None:
    assert yaml.safe_load(text_of(host(), SMOL, name))["model"] == name


@pytest.mark.parametrize("name", [".5", "yes", "null", "~", "1e3", "2024-01-01", "- x", "a: b", "# x", "C:\\x", "é"])
def test_names_that_yaml_would_take_for_something_else(name: str) -> None:
    assert yaml.safe_load(text_of(host(), SMOL, name))["model"] == name


def test_the_machine_is_named() -> None:
    first = text_of(host(8, num_gpus=2), SMOL).splitlines()[0]
    assert first == "# A cluster for this machine: 8 CPU cores, 16 GiB of free memory, 2 GPUs (A card)."
    assert json.dumps([0]) in text_of(host(8, num_gpus=2), SMOL)
