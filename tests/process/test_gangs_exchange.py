"""A server of two ranks and one of one, as processes: they meet, hand over, take back, and lose each other."""

from __future__ import annotations

import json
import signal
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_model
from helpers.engine_process import Engine, ask_context, make_spec, started, started_gang
from helpers.waiting import DEADLINE_S

from trtdisagg.protocol.commands import Gone, Meet
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.reports import Beat, Linked, Ready
from trtdisagg.protocol.spec import PeerAddress
from trtdisagg.protocol.stats import Stats


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("model") / "tiny")


def until(engine: Engine, holds: Callable[[Stats], bool]) -> Stats:
    """The first beat of which this holds."""
    while beat := engine.report(Beat):
        if holds(beat.stats):
            return beat.stats  # type: ignore[no-any-return]
    raise AssertionError("the engine has ended")


def release(engine: Engine, leg: dict[str, Any]) -> None:
    body = json.dumps({"ticket": leg["disaggregated_params"]["encoded_opaque_state"]}).encode()
    with urllib.request.urlopen(f"{engine.url}/kv/release", body, timeout=DEADLINE_S) as answer:
        assert answer.status == 200


def address(ready: Ready, name: str) -> PeerAddress:
    return PeerAddress(server=name, incarnation=f"{name}.1", host=ready.kv_host, port=ready.kv_port)


def test_servers_meet_hand_over_take_back_and_lose_each_other(model: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        there = make_spec(model, "context-0", parallel=Parallel(tp_size=2), enable_block_reuse=False)
        here = make_spec(model, "generation-0", enable_block_reuse=False)
        with (
            started_gang(there, Path(directory)) as (context, _),
            started(here, Path(directory)) as generation,
        ):
            peer = address(context.ready(), "context-0")
            generation.command(Meet(peer=peer))
            generation.ready()
            linked = generation.report(Linked)
            assert (linked.server, linked.incarnation, linked.error) == ("context-0", "context-0.1", None)
            assert linked.gb_s > 0

            prompt = "x" * 50
            whole = context.post(prompt=prompt, max_tokens=20, ignore_eos=True)["choices"][0]["text"]
            rest = generation.post(**ask_context(context, prompt, 20))
            assert rest["choices"][0]["text"] == whole
            stats = until(generation, lambda s: s.num_transfers_total == 1)
            assert (stats.num_transfer_failures_total, stats.num_quarantined_blocks) == (0, 0)
            assert stats.num_transfer_bytes_total > 0
            until(context, lambda s: not s.num_held_blocks)

            leg = ask_context(context, prompt, 20)
            until(context, lambda s: s.num_held_blocks > 0)
            release(context, leg)
            stats = until(context, lambda s: not s.num_held_blocks)
            assert (stats.num_unread_holds_total, stats.num_expired_leases_total) == (1, 0)

            leg = ask_context(context, prompt, 20)
            with pytest.raises(urllib.error.HTTPError, match="400"):
                generation.post(**{**leg, "temperature": "hot"})
            stats = until(context, lambda s: s.num_unread_holds_total == 2)
            assert not stats.num_held_blocks

            leg = ask_context(context, prompt, 20)
            context.process.send_signal(signal.SIGSTOP)
            generation.command(Gone(incarnation="context-0.1"))
            assert generation.post(**leg)["choices"][0]["text"] == whole  # computed again
            context.process.send_signal(signal.SIGCONT)
            until(generation, lambda s: s.num_transfer_failures_total == 1 and not s.num_transfers_running)
            until(generation, lambda s: not (s.num_used_blocks or s.num_quarantined_blocks))
