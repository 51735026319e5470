from __future__ import annotations

from pathlib import Path

from tests.helpers.plans import cluster_file, plan_of
from tests.helpers.supervision import Replay, up
from trtdisagg.protocol.control import ClusterStatus
from trtdisagg.protocol.spec import Beat, Ready, Stats
from trtdisagg.supervisor import view
from trtdisagg.supervisor.rundir import Place

PLAN = plan_of(cluster_file())
PLACE = Place(Path("/run/x"), Path("/state/x/logs"))


def status(replay: Replay) -> ClusterStatus:
    return view.status(replay.state, PLAN, PLACE, now=replay.now, agent_pid=1, events=["a line"])


def test_the_cluster_in_one_word() -> None:
    replay = Replay()
    assert status(replay).state == "starting"
    replay = up()
    assert status(replay).state == "ready"
    replay.play("10 context-0 dies")
    assert status(replay).state == "degraded"
    replay.play("20 cluster stop")
    assert (status(replay).state, status(replay).reason) == ("stopping", "SIGINT")


def test_a_row_of_the_table() -> None:
    replay = up().play("13 cluster passes")
    row = next(s for s in status(replay).servers if s.name == "generation-0")
    assert (row.state, row.up_s, row.restarts, row.url) == ("ready", 10.0, 0, "127.0.0.1:7")
    assert row.log_file == "/state/x/logs/generation-0.log"
    assert row.pid is not None


def test_rates_are_between_the_beats_that_are_kept() -> None:
    replay = up()
    replay.frozen = {"context-0"}
    for second in range(1, 31):
        replay.advance(3 + second)
        stats = Stats(num_prompt_tokens_total=100 * second, num_generation_tokens_total=7 * second)
        replay.report("context-0", Beat(stats=stats))
    row = next(s for s in status(replay).servers if s.name == "context-0")
    assert (row.tokens_in_s, row.tokens_out_s) == (100.0, 7.0)


def test_members_have_the_limits_they_reported_and_an_address_that_can_be_dialled() -> None:
    replay = up().play("""
        10 context-0 dies
        12 cluster passes
    """)
    assert [m.name for m in view.members(replay.state, PLAN)] == ["generation-0"]
    replay.report("context-0", Ready(host="0.0.0.0", port=81, max_seq_len=99, num_blocks=5, tokens_per_block=32))
    member = view.members(replay.state, PLAN)[0]
    assert (member.url, member.max_seq_len, member.num_blocks, member.role) == ("127.0.0.1:81", 99, 5, "context")
    assert member.incarnation == "run.context-0.2"
