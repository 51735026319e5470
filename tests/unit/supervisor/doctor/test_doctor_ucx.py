"""What is read out of UCX's own lines, and what is made of it."""

from __future__ import annotations

import pytest

from trtdisagg.supervisor.doctor.ucx import Seen, findings, for_nvlink, is_of_ucx, read

SAID = """\
Traceback, or something else
[1795335792.463049] [node:3200 :0]     ucp_context.c:2753 UCX  INFO  Version 1.23.0 (loaded from /x/libucp.so)
[1795335793.003240] [node:3197 :0]      ucp_worker.c:1997 UCX  INFO    probe intra-node cfg#1 rma(sysv/memory)
[1795335793.925288] [node:3197 :0]   +-------+--------+-------------+-----------------------------------+
[1795335793.925288] [node:3197 :0]   | probe intra-node cfg#1                                           |
[1795335793.925288] [node:3197 :0]   | remote memory read by ucp_get*(multi) into host memory from host |
[1795335793.925288] [node:3197 :0]   | Count | Range  | Description |              Config               |
[1795335793.925288] [node:3197 :0]   |  2998 | 0..inf | zero-copy   | {way:<33} |
"""


def seen(way: str, version: tuple[int, ...] = (1, 23, 0)) -> Seen:
    return Seen(version=version, ways={"remote memory read": [way]})


def test_version_and_the_way_that_blocks_took() -> None:
    operation = "remote memory read by ucp_get*(multi) into host memory from host"
    assert read(SAID.format(way="cma/memory")) == Seen(version=(1, 23, 0), ways={operation: ["cma/memory"]})
    assert read("") == Seen()


def test_its_lines_are_told_from_others() -> None:
    assert [is_of_ucx(line) for line in SAID.splitlines()[:2]] == [False, True]


@pytest.mark.parametrize(
    ("said", "env", "on_gpu", "severity", "words"),
    [
        (seen("cma/memory"), {}, False, "ok", "1.23.0; blocks go by cma/memory"),
        (seen("tcp/lo"), {}, False, "warning", "unset ucx_tls"),
        (seen("cuda_ipc/cuda"), {}, True, "ok", "cuda_ipc"),
        (seen("cuda_copy/cuda"), {}, True, "warning", "set ucx_memtype_cache=n in `env`"),
        (seen("cuda_copy/cuda", (1, 17, 0)), {"UCX_MEMTYPE_CACHE": "n"}, True, "warning", "mem_type=cuda in"),
        (seen("cuda_copy/cuda"), {"UCX_MEMTYPE_CACHE": "n"}, True, "warning", "nvidia-smi topo -m"),
        (Seen(version=(1, 20)), {}, True, "ok", "1.20"),
    ],
)
def test_what_it_means(said: Seen, env: dict[str, str], on_gpu: bool, severity: str, words: str) -> None:
    (finding,) = findings(said, env, on_gpu=on_gpu)
    assert finding.severity == severity
    assert words in str(finding).lower()


def test_one_that_says_nothing_is_not_judged() -> None:
    assert list(findings(Seen(), {}, on_gpu=True)) == []


def test_what_versions_need() -> None:
    assert "UCX_RNDV_FRAG_MEM_TYPE" in for_nvlink((1, 17, 9))
    assert for_nvlink((1, 18, 1))["UCX_CUDA_COPY_DMABUF"] == "no"
