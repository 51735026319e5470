"""`trtdisagg bench`: a command for each thing that can be measured, in the module of its name."""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "engine": "Measure the engine without HTTP, and the machine's limits beside it.",
    "kv": "Measure how fast KV moves between two servers of this host.",
    "serve": "Put a load on any OpenAI endpoint, and measure how it answers.",
    "core-model": "Ask what Triton's benchmark_core_model.py asks, and print its table.",
    "sweep": "Measure variants of a cluster under one load after the other, and draw what came of it.",
    "report": "Draw the report of sweeps again, of one or of several in one.",
    "proxy": "Measure what the proxy costs, and other proxies beside it.",
}
"""Name and first sentence of help; a dash in a name is an underscore in that of its module."""


class _Commands(click.Group):
    """Imports a command when it is asked for: each needs other things."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"trtdisagg.cli.bench.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands)
def command() -> None:
    """Measure how fast this machine, or any OpenAI endpoint, serves."""
