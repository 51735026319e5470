"""Keys and values: TensorRT-LLM's to the letter, ours beside them."""

from __future__ import annotations

import json

from trtdisagg.protocol.control import Member
from trtdisagg.registry.records import (
    apart,
    entries_of,
    listed_in,
    metadata_entries_of,
    metadata_listed_in,
)

OURS = Member(
    name="generation-0", role="generation", model="m", url="[::1]:81", incarnation="run.generation-0.1", wire_version=1
)


def test_a_worker_is_written_as_tensorrt_llm_reads_it() -> None:
    (_, worker) = entries_of(OURS, "prod").items()
    key, value = worker
    worker_id = "GENERATION-[::1]:81-run.generation-0.1"
    assert key == f"/trtllm-disagg/prod/workers/{worker_id}"
    assert json.loads(value) == {"worker_id": worker_id, "host": "::1", "port": 81, "role": 1}


def test_one_of_ours_comes_back_whole() -> None:
    listed, problems = listed_in(entries_of(OURS, ""), "")
    assert ([one.member for one in listed.values()], problems) == ([OURS], [])


def test_a_worker_of_others_is_a_role_and_an_address() -> None:
    prefix = "/trtllm-disagg/c/workers/"
    entries = {
        f"{prefix}CONTEXT-h:1-17-2-003": json.dumps({"worker_id": "w", "host": "h", "port": 1, "role": 0}),
        f"{prefix}by-name": json.dumps({"worker_id": "w", "host": "h", "port": 2, "role": "GENERATION"}),
        f"{prefix}no-json": "{",
        f"{prefix}no-port": json.dumps({"worker_id": "w", "host": "h", "port": 0, "role": 0}),
        f"{prefix}no-host": json.dumps({"worker_id": "w", "host": "h/../x", "port": 1, "role": 0}),
        f"{prefix}encoder": json.dumps({"worker_id": "w", "host": "h", "port": 4, "role": 2}),
        "/trtllm-disagg/c/members/alone": "{}",
        "/trtllm-disagg/other/workers/x": json.dumps({"worker_id": "w", "host": "h", "port": 3, "role": 0}),
    }
    listed, problems = listed_in(entries, "c")
    assert {(one.server.role, one.server.url, one.member) for one in listed.values()} == {
        ("context", "h:1", None),
        ("generation", "h:2", None),
    }
    assert [problem.split("/")[4].split(":")[0] for problem in problems] == ["no-json", "no-port", "no-host", "encoder"]


def test_the_older_way() -> None:
    entries = metadata_entries_of(OURS)
    ((key, value),) = entries.items()
    assert key == "trtllm/run.generation-0.1"
    assert set(json.loads(value)) == {"model", "version", "timestamp", "server_role", "url"}
    listed, problems = metadata_listed_in({**entries, "trtllm/x": '{"url": "h", "server_role": "CONTEXT"}'})
    assert [(one.server.role, one.server.url) for one in listed.values()] == [("generation", "[::1]:81")]
    assert len(problems) == 1


def test_names_are_kept_apart() -> None:
    first, second = (Member(name="generation-0", role="both", model="m", url=f"h:{i}") for i in (1, 2))
    assert [m.name for m in apart([second, OURS], [first])] == ["generation-0@h:2", "generation-0@[::1]:81"]
