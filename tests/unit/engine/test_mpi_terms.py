"""What the processes of an MPI world agree on. Their world is threads here."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from helpers.gangs import TIMEOUT_S, gang_spec, on_each_rank

from trtdisagg.engine.mpi import terms
from trtdisagg.engine.mpi.terms import Facts, Terms, agree, settle, share
from trtdisagg.engine.mpi.world import World
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.net import split_address
from trtdisagg.protocol.mpi import WorldServer, WorldSpec
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.spec import EngineSpec

TWO = Parallel(tp_size=2)
SERVERS = [WorldServer(name="context-0", num_ranks=1), WorldServer(name="generation-0", num_ranks=2)]


class Threads:
    """What one of several threads sees of a world."""

    def __init__(self, rank: int, said: list[bytes], barrier: threading.Barrier) -> None:
        self.rank = rank
        self._said = said
        self._barrier = barrier

    def all_say(self, mine: bytes) -> list[bytes]:
        self._said[self.rank] = mine
        self._barrier.wait(TIMEOUT_S)
        everything = list(self._said)
        self._barrier.wait(TIMEOUT_S)
        return everything

    def first_says(self, mine: bytes) -> bytes:
        return self.all_say(mine)[0]


def spec_of(directory: Path, name: str, rank: int, **changes: Any) -> EngineSpec:
    parallel = TWO if name == "generation-0" else Parallel()
    return gang_spec(directory, parallel, rank, **{"name": name, "gang_socket": None, **changes})


def agreed(specs: list[EngineSpec]) -> list[Terms]:
    said, barrier = [b""] * len(specs), threading.Barrier(len(specs))

    def on_one(number: int) -> Terms:
        world = cast("World", Threads(number, said, barrier))
        return agree(world, WorldSpec(servers=SERVERS, engine=specs[number]))

    return on_each_rank(len(specs), on_one)


def facts(spec: EngineSpec, host: str = "a", **changes: Any) -> Facts:
    return msgspec.structs.replace(terms.facts_of(spec, None), host=host, **changes)


def test_on_one_host_ranks_meet_at_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    context, first, second = agreed(
        [
            spec_of(tmp_path, "context-0", 0),
            spec_of(tmp_path, "generation-0", 0, num_blocks=5),
            spec_of(tmp_path, "generation-0", 1, max_seq_len=48),
        ]
    )
    assert context[1:] == first[1:] == second[1:]
    assert context[0].gang_socket is None
    assert first[0].gang_socket == second[0].gang_socket
    assert str(first[0].gang_socket).startswith(f"{tmp_path}/trtdisagg-")
    assert first[0].incarnation == second[0].incarnation != context[0].incarnation
    sizes = [(spec.num_blocks, spec.max_seq_len) for spec, *_ in (context, first, second)]
    assert sizes == [(8, 64), (5, 48), (5, 48)], "what all ranks of a server have room for"


def test_across_hosts_they_meet_at_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "_name_of_host", lambda: f"host {threading.get_ident()}")
    monkeypatch.setattr(terms, "is_loopback", lambda address: False)
    _, first, second = agreed(
        [
            spec_of(tmp_path, "context-0", 0),
            spec_of(tmp_path, "generation-0", 0),
            spec_of(tmp_path, "generation-0", 1),
        ]
    )
    assert first[0].gang_fd is not None
    assert second[0].gang_fd is None
    assert first[0].gang_address == second[0].gang_address
    with socket.socket(fileno=first[0].gang_fd), socket.create_connection(split_address(str(second[0].gang_address))):
        assert second[0].host == "127.0.0.1", "where rank 0 would see it come from"


def test_a_url_of_this_host_alone_is_none_for_several_hosts(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "context-0", 0)
    with pytest.raises(ConfigError, match=r"context-0: its url says 127.0.0.1, and the processes are on several hosts"):
        settle(spec, [facts(spec), facts(spec, "b", server="generation-0")], incarnation="i")


def test_two_processes_do_not_share_a_gpu(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "context-0", 0)
    other = facts(spec, server="generation-0", gpu="GPU-1")
    with pytest.raises(ConfigError, match="context-0 rank 0 and another process have one GPU, GPU-1"):
        settle(spec, [facts(spec, gpu="GPU-1"), other], incarnation="i")


def test_cores_are_divided_among_those_that_are_bound_to_the_same(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "context-0", 0)
    other = {"server": "generation-0"}
    together = settle(spec, [facts(spec, cores=[0, 1, 2]), facts(spec, cores=[0, 1, 2], **other)], incarnation="i")
    assert (together.cores, together.num_threads) == ([0], 1)
    bound = settle(spec, [facts(spec, cores=[0, 1]), facts(spec, cores=[2, 3], **other)], incarnation="i")
    assert (bound.cores, bound.num_threads) == ([0, 1], 2)
    crowd = settle(spec, [facts(spec, cores=[0]), facts(spec, cores=[0], **other)], incarnation="i")
    assert (crowd.cores, crowd.num_threads) == ([0], 1)
    assert share([0, 1, 2, 3, 4], 1, 2) == [2, 3, 4]


def test_a_process_that_mpi_numbers_otherwise_does_not_go_on(tmp_path: Path) -> None:
    given = WorldSpec(servers=SERVERS, engine=spec_of(tmp_path, "generation-0", 1))
    with pytest.raises(StartupError, match="mpirun numbers this process 2, and MPI 0"):
        agree(cast("World", Threads(0, [b""], threading.Barrier(1))), given)


def test_where_we_are_is_the_kernel_and_what_it_shows_us() -> None:
    assert terms._name_of_host() == terms._name_of_host()
    assert os.readlink("/proc/self/ns/net") in terms._name_of_host()
