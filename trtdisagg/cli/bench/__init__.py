"""`trtdisagg bench`: a command for each thing that can be measured, in the module of its name."""

from __future__ import annotations

import click

from trtdisagg.cli.lazy import LazyGroup

COMMANDS = {
    "engine": "Measure the engine without HTTP, and the machine's limits beside it.",
    "kv": "Measure how fast KV moves between two servers of this host.",
    "serve": "Put a load on any OpenAI endpoint, and measure how it answers.",
    "core-model": "Ask what Triton's benchmark_core_model.py asks, and print its table.",
    "sweep": "Measure variants of a cluster under one load after the other, and draw what came of it.",
    "report": "Draw the report of sweeps again, of one or of several in one.",
    "proxy": "Measure what the proxy costs, and other proxies beside it.",
}
"""Name and first sentence of help."""


@click.group(cls=LazyGroup, package=__name__, summaries=COMMANDS)
def command() -> None:
    """Measure how fast this machine, or any OpenAI endpoint, serves."""
