"""`trtdisagg slurm`: a cluster as a Slurm job, a command for each thing in the module of its name."""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "submit": "Submit a job that runs a cluster, and wait until it can serve.",
    "sweep": "Measure variants of a cluster, each in a Slurm job of its own.",
    "render": "Print what `submit` would write and run, without Slurm.",
}
"""Name and first sentence of help."""


class _Commands(click.Group):
    """Imports a command when it is asked for."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"trtdisagg.cli.slurm.{cmd_name}").command
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands)
def command() -> None:
    """Run a cluster as a Slurm job.

    On one node or several. What is asked of Slurm stands in the cluster file, under `slurm:`, or is said by options.
    """
