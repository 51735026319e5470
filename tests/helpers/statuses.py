"""Statuses to draw."""

from __future__ import annotations

from trtdisagg.protocol.control import ClusterStatus, Member, ServerStatus
from trtdisagg.protocol.stats import Stats

BUSY = ClusterStatus(
    cluster="prod",
    state="degraded",
    url="http://127.0.0.1:8000",
    file="/etc/prod.yaml",
    agent_pid=4242,
    up_s=7300,
    servers=[
        ServerStatus(
            name="proxy",
            role="proxy",
            state="ready",
            pid=1234567,
            up_s=7290,
            stats=Stats(num_running=76, num_waiting=3),
            requests_s=34.2,
            failures_s=0.2,
            ttft_p95_ms=830,
            tpot_p95_ms=43.2,
            history=[0, 3, 9, 20, 34.2],
        ),
        ServerStatus(
            name="context-0",
            role="context",
            model="m",
            state="ready",
            pid=1234568,
            gpus=["0"],
            up_s=65,
            stats=Stats(num_running=12, num_waiting=1024, num_blocks=1000, num_used_blocks=1000),
            tokens_in_s=12_345,
            ttft_p95_ms=1234,
            history=[float(i % 13) for i in range(60)],
        ),
        ServerStatus(
            name="generation-10",
            role="generation",
            model="m",
            state="backoff",
            reason="killed by SIGKILL",
            restarts=12,
            cores=[0, 1, 2, 3, 8],
            stats=Stats(num_running=64, num_waiting=7, num_blocks=1000, num_used_blocks=14),
            tokens_out_s=340,
            tpot_p95_ms=8.26,
            transfer_gb_s=12.34,
            history=[5.0, 0.0, 340.0],
        ),
        ServerStatus(
            name="generation-11",
            role="generation",
            model="m",
            state="draining",
            pid=77,
            gpus=["2", "3"],
            up_s=3700,
            in_use=4,
            deadline_s=17.4,
            stats=Stats(num_running=4, num_blocks=1000, num_used_blocks=800),
            tokens_out_s=99,
            tpot_p95_ms=20.4,
        ),
    ],
    others=[Member(name="generation-20", role="generation", model="m", url="10.0.0.2:8003")],
    hints=["generation-10 is 2.4 times slower per token than the others: 48 ms, not 20 ms"],
    autoscale="holds: time to first token is below its target, nothing waits",
    events=[f"12:00:0{i} event {i} {'and so on ' * 30}" for i in range(8)],
)
"""Everything at once: a server of each kind and state, hints, others, events that are too long."""
