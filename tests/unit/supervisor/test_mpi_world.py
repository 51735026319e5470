from __future__ import annotations

from pathlib import Path

import pytest

from trtdisagg.config.load import load
from trtdisagg.config.schema import ClusterFile
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.mpi_world import Seat, check_number, my_gpu, part_of, seats
from trtdisagg.supervisor.nvml import Gpu

FILE = """\
model: tiny
generation_servers: {num_instances: 1, tensor_parallel_size: 2, urls: ["node2:8003"]}
context_servers: {num_instances: 2, pipeline_parallel_size: 2, urls: ["node1:8001", "node1:8002"]}
"""


def cluster(directory: Path, text: str = FILE) -> ClusterFile:
    file = directory / "c.yaml"
    file.write_text(text)
    return load(file).cluster


def host(num_gpus: int = 0) -> Host:
    gpus = [
        Gpu(id=str(i), uuid=f"GPU-{i}", index=i, name="H200", total_bytes=100, free_bytes=100) for i in range(num_gpus)
    ]
    return Host(cores=[0, 1], memory_bytes=1000, gpus=gpus, local_names=frozenset({"node2"}))


def test_ranks_are_numbered_through_the_context_servers_first(tmp_path: Path) -> None:
    names = [(seat.slot.name, seat.rank) for seat in seats(cluster(tmp_path))]
    assert names == [
        ("context-0", 0),
        ("context-0", 1),
        ("context-1", 0),
        ("context-1", 1),
        ("generation-0", 0),
        ("generation-0", 1),
    ]


@pytest.mark.parametrize("number", [1, 5, 7])
def test_another_number_of_processes_is_refused_with_both_and_the_servers(tmp_path: Path, number: int) -> None:
    with pytest.raises(ConfigError) as refused:
        check_number(seats(cluster(tmp_path)), number)
    message = refused.value.message
    assert f"mpirun has started {number} process" in message
    assert "the file has 6 ranks" in message
    assert "context-0 (2 ranks), context-1 (2 ranks), generation-0 (2 ranks); start it with -n 6" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FILE + "disagg_cluster: {cluster_uri: 'etcd://h:2379'}", "disagg_cluster: .*none joins or leaves"),
        (FILE + "autoscale: {enabled: true}", "autoscale: "),
        (FILE.replace(', urls: ["node2:8003"]', ""), "generation_servers.urls: .*add a url for each"),
        (FILE.replace("num_instances: 1", "command: [x], num_instances: 1"), "generation_servers.command: "),
        (FILE.replace("num_instances: 1", "cores: [0], num_instances: 1"), "generation_servers.cores: mpirun says"),
        (FILE.replace("model: tiny\n", ""), "the file names none; add `model:`"),
    ],
)
def test_what_a_fixed_world_cannot_give_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        seats(cluster(tmp_path, text))


def test_a_process_sizes_its_server_as_if_all_ranks_had_what_it_has(tmp_path: Path) -> None:
    """Of a machine with four processes a quarter; what others have is not known here."""
    seat = seats(cluster(tmp_path))[5]
    part = part_of(host(num_gpus=4), seat, local_rank=3, local_size=4)
    assert part.memory_bytes == 500, "two ranks, each with a quarter"
    assert [(gpu.index, gpu.id) for gpu in part.gpus] == [(3, "3/0"), (3, "3/1")]


def test_only_rank_0_must_be_where_the_url_says(tmp_path: Path) -> None:
    first, second = seats(cluster(tmp_path))[:2]

    def names(seat: Seat) -> frozenset[str]:
        return part_of(host(), seat, local_rank=0, local_size=1).local_names

    assert "node1" not in names(first)
    assert "node1" in names(second)


def test_each_process_has_the_gpu_of_its_number_on_the_machine() -> None:
    assert my_gpu(host(), 3) is None
    assert (gpu := my_gpu(host(num_gpus=4), 3))
    assert gpu.index == 3
    assert (gpu := my_gpu(host(num_gpus=1), 3)), "srun has given it that one"
    assert gpu.index == 0
    with pytest.raises(StartupError, match="process 2 of this machine has no GPU: there are 2"):
        my_gpu(host(num_gpus=2), 2)
