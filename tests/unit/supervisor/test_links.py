"""Who is asked to meet whom, and who is routed to meanwhile: histories."""

from __future__ import annotations

from helpers.supervision import Replay

from trtdisagg.protocol.reports import Linked, Ready
from trtdisagg.supervisor import links
from trtdisagg.supervisor.events import Introduce
from trtdisagg.supervisor.links import MEET_TIMEOUT_S, told_of_end

NAMES = ("proxy", "context-0", "context-1", "generation-0", "generation-1")


class Meetings(Replay):
    """A cluster whose context servers have an endpoint for KV."""

    def ready(self, *names: str, role: str | None = None) -> Meetings:
        for name in names:
            hands_over = "generation" not in name
            ready = Ready(host="h", port=7, kv_host="k", kv_port=9 if hands_over else 0, role=role)  # type: ignore[arg-type]
            self.report(name, ready)
        return self

    def meets(self, generation: str, *contexts: str, error: str | None = None) -> None:
        for context in contexts:
            incarnation = self.incarnation(context) or ""
            self.report(generation, Linked(server=context, incarnation=incarnation, transport="local", error=error))

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Who was asked to meet whom."""
        asked = [action for action in self.actions if isinstance(action, Introduce)]
        return [(action.name, peer.incarnation) for action in asked for peer in action.peers]

    @property
    def routable(self) -> set[str]:
        return {child.name for child in links.routable(self.state)}


def test_a_new_cluster_is_routed_to_when_all_have_met() -> None:
    cluster = Meetings(NAMES).ready("context-0", "generation-0")
    assert cluster.asked == [("generation-0", "run.context-0.1")]
    cluster.advance(1)
    cluster.ready("context-1", "proxy")
    assert cluster.asked[1:] == [("generation-0", "run.context-1.1")]
    assert links.unmet(cluster.state) == {"context-0": ["generation-0"], "context-1": ["generation-0"]}
    cluster.meets("generation-0", "context-0")
    assert cluster.routable == {"context-0", "generation-0"}, "who came later waits, and nobody else"
    cluster.meets("generation-0", "context-1")
    assert cluster.routable == {"context-0", "context-1", "generation-0"}
    cluster.advance(2)
    cluster.ready("generation-1")
    assert cluster.asked[2:] == [("generation-1", "run.context-0.1"), ("generation-1", "run.context-1.1")]
    cluster.meets("generation-1", "context-1")
    assert "generation-1" not in cluster.routable
    assert not cluster.state.all_ready
    cluster.meets("generation-1", "context-0", error="no way")
    assert "generation-1" in cluster.routable, "that they cannot meet is an answer"
    assert cluster.state.all_ready
    assert len(cluster.asked) == 4, "nobody is asked twice"


def test_a_server_that_does_not_answer_is_waited_for_so_long_and_no_longer() -> None:
    cluster = Meetings(("proxy", "context-0", "generation-0")).ready("proxy", "context-0")
    cluster.advance(1)
    cluster.ready("generation-0")
    cluster.advance(MEET_TIMEOUT_S)
    assert cluster.routable == {"context-0"}
    cluster.advance(1 + MEET_TIMEOUT_S)
    assert cluster.log[-1] == "generation-0 unmet"
    assert cluster.routable == {"context-0", "generation-0"}
    (meeting,) = cluster.child("generation-0").meetings.values()
    assert meeting.link is not None
    assert meeting.link.error == "they have not met within 15 s"
    cluster.meets("generation-0", "context-0")
    (meeting,) = cluster.child("generation-0").meetings.values()
    assert meeting.link is not None
    assert meeting.link.error is None, "late is better than never"


def test_who_starts_again_is_met_again() -> None:
    cluster = Meetings(("proxy", "context-0", "generation-0")).ready("proxy", "context-0", "generation-0")
    cluster.meets("generation-0", "context-0")
    cluster.do("context-0", "dies")
    assert cluster.child("generation-0").meetings == {}
    assert [child.name for child in told_of_end(cluster.state, "context-0")] == ["generation-0"]
    cluster.advance(5)
    cluster.ready("context-0")
    assert cluster.asked[1:] == [("generation-0", "run.context-0.2")]
    assert cluster.routable == {"generation-0"}
    cluster.report("generation-0", Linked(server="context-0", incarnation="run.context-0.1"))
    assert cluster.routable == {"generation-0"}, "a word about one that is gone"
    cluster.meets("generation-0", "context-0")
    assert cluster.routable == {"context-0", "generation-0"}
    cluster.do("generation-0", "dies")
    cluster.advance(10)
    cluster.ready("generation-0")
    assert cluster.asked[2:] == [("generation-0", "run.context-0.2")]
    assert cluster.routable == {"context-0"}


def test_a_silent_server_keeps_nobody_waiting() -> None:
    cluster = Meetings(("proxy", "context-0", "generation-0")).ready("proxy", "generation-0")
    cluster.do("generation-0", "freezes")
    cluster.advance(3)
    assert cluster.child("generation-0").phase == "stalled"
    cluster.ready("context-0")
    assert cluster.routable == {"context-0"}
    cluster.do("generation-0", "thaws")
    cluster.advance(4)
    assert cluster.routable == {"generation-0"}, "the context server is the one that came later"
    cluster.meets("generation-0", "context-0")
    assert cluster.routable == {"context-0", "generation-0"}


def test_servers_of_several_models_do_not_meet() -> None:
    names = ("a.context-0", "b.1.context-0", "b.1.generation-0")
    cluster = Meetings(names).ready(*names)
    assert cluster.asked == [("b.1.generation-0", "run.b.1.context-0.1")]
    assert cluster.routable == {"a.context-0", "b.1.generation-0"}


def test_mixed_servers_meet_each_other_and_not_themselves() -> None:
    cluster = Meetings(("proxy", "both-0", "both-1")).ready("proxy", "both-0")
    assert cluster.asked == []
    cluster.advance(1)
    cluster.ready("both-1")
    assert sorted(cluster.asked) == [("both-0", "run.both-1.1"), ("both-1", "run.both-0.1")]
    assert cluster.routable == {"both-0"}
    cluster.meets("both-1", "both-0")
    cluster.meets("both-0", "both-1")
    assert cluster.routable == {"both-0", "both-1"}


def test_a_server_that_hands_nothing_over_is_not_met() -> None:
    cluster = Meetings(("proxy", "context-0", "generation-0"))
    cluster.report("context-0", Ready(host="h", port=7))
    cluster.ready("generation-0")
    assert cluster.asked == []
    assert cluster.routable == {"context-0", "generation-0"}


def test_a_server_that_was_switched_is_the_one_that_came_later() -> None:
    cluster = Meetings(("proxy", "context-0", "context-1", "generation-0"))
    cluster.ready("proxy", "context-0", "context-1", "generation-0")
    cluster.meets("generation-0", "context-0", "context-1")
    cluster.advance(1)
    cluster.do("context-1", "switch", "generation")
    cluster.advance(3)
    cluster.ready("context-1", role="generation")
    assert cluster.child("context-1").role == "generation"
    assert cluster.routable == {"context-0", "generation-0"}
    cluster.meets("context-1", "context-0")
    assert cluster.routable == {"context-0", "context-1", "generation-0"}
    shown = [m.peer.server for name in NAMES[1:4] for m in links.current(cluster.state, cluster.child(name))]
    assert sorted(shown) == ["context-0", "context-0"], "what it gave as a context server counts no more"
