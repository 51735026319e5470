"""Statuses to draw."""

from __future__ import annotations

from trtdisagg.protocol.control import ClusterStatus, ServerStatus
from trtdisagg.protocol.spec import Stats

BUSY = ClusterStatus(
    cluster="prod",
    state="degraded",
    url="http://127.0.0.1:8000",
    file="/etc/prod.yaml",
    agent_pid=4242,
    up_s=7300,
    servers=[
        ServerStatus(name="proxy", role="proxy", state="ready", pid=1234567, up_s=7290),
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
        ),
    ],
    events=[f"12:00:0{i} event {i} {'and so on ' * 30}" for i in range(8)],
)
