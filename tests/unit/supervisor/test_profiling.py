"""Which ranks run under a profiler, and how they are called then."""

from __future__ import annotations

import pytest
from helpers.plans import FAKE_ENGINE, cluster_file, plan_of

from trtdisagg.config.server_keys import ServerSection
from trtdisagg.config.supervisor_keys import ProfileConfig
from trtdisagg.errors import ConfigError
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.rank_plan import rank_argv

TWO_RANKS = ServerSection(tensor_parallel_size=2)


def plan(**profile: object) -> Plan:
    config = ProfileConfig(output_dir="/reports", **profile)  # type: ignore[arg-type]
    return plan_of(cluster_file(generation_servers=TWO_RANKS, profile=config))


def test_the_ranks_that_are_named_and_no_others() -> None:
    context, generation = plan(servers=["generation-0"], ranks=[1], args=["--trace=cuda"]).servers
    assert rank_argv(context, 0, "run.context-0.1") == context.argv
    assert rank_argv(generation, 0, "run.generation-0.1") == generation.argv
    assert rank_argv(generation, 1, "run.generation-0.1") == [
        *("nsys", "profile", "--kill=none", "--trace=cuda", "--output=/reports/run.generation-0.1.rank1"),
        *generation.argv,
    ]


def test_without_ranks_the_first() -> None:
    generation = plan(servers=["generation-0"]).servers[1]
    assert [rank_argv(generation, rank, "i") == generation.argv for rank in range(2)] == [False, True]


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ({"servers": ["generation-1"]}, "no generation-1 to start; there are context-0, generation-0"),
        ({"servers": ["generation-0"], "ranks": [0, 2]}, "generation-0 has 2, counted from 0, so there is no 2"),
    ],
)
def test_what_is_not_there_cannot_be_profiled(profile: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(**profile)


def test_only_what_is_profiled_has_to_be_started_anew() -> None:
    before, after = plan_of(cluster_file(generation_servers=TWO_RANKS)), plan(servers=["generation-0"])
    equal = [old.settings == new.settings for old, new in zip(before.servers, after.servers, strict=True)]
    assert equal == [True, False]


def test_pdl_is_for_programs_of_the_users_own() -> None:
    file = cluster_file(
        context_servers=ServerSection(enable_pdl=True),
        generation_servers=ServerSection(enable_pdl=True, command=FAKE_ENGINE),
    )
    made = plan_of(file)
    assert [server.env["TRTLLM_ENABLE_PDL"] for server in made.servers] == ["1", "1"]
    assert [n for n in made.notices if "enable_pdl" in n] == [
        "enable_pdl: no effect on context-0, because the builtin engine launches no kernel before the one it depends on"
        " has ended"
    ]
    assert "TRTLLM_ENABLE_PDL" not in plan_of(cluster_file()).servers[0].env
