"""The program's front door: which commands there are, and what an error looks like.

Knows the commands by name only and imports one when it is asked for, so that `trtdisagg --help` costs nothing.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

import click

from trtdisagg import __version__
from trtdisagg.cli.lazy import LazyGroup
from trtdisagg.cli.stdout import discard_stdout
from trtdisagg.errors import TrtdisaggError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS = {
    "up": "Bring a cluster up and keep it up.",
    "down": "Take a cluster down in order.",
    "scale": "Have more or fewer servers of a role.",
    "drain": "Let servers finish what they have, and stop them.",
    "remove": "Drain servers and forget them.",
    "restart": "Start servers anew.",
    "switch": "Have a server go on in the other role.",
    "autoscale": "Explain what the autoscaler would do, without doing it.",
    "status": "Show how a cluster is.",
    "top": "Watch a cluster on a live screen.",
    "events": "Show what happened.",
    "trace": "Show where the time of a request went.",
    "logs": "Show what servers and proxy wrote.",
    "init": "Write a cluster file for this machine.",
    "check": "Check a cluster file and print its plan.",
    "doctor": "Find out whether this machine can run a cluster.",
    "serve": "Run one server by hand, supervised, in the foreground.",
    "join": "Add servers to a cluster that runs.",
    "proxy": "Route requests to servers that run already.",
    "engine": "Run one rank from a spec file.",
    "mpi-worker": "Be one rank of the servers of a file, started by mpirun; deprecated.",
    "bench": "Measure how fast this machine, or any OpenAI endpoint, serves.",
    "slurm": "Run a cluster as a Slurm job.",
    "advise": "Say whether disaggregation pays for a load, and in which ratio.",
    "generate": "Write a systemd unit, a Grafana dashboard or an API key.",
    "completion": "Print what makes a shell complete commands and names.",
    "version": "Print the version.",
}
"""Name and first sentence of help; the command is `command` in the module of that name."""
_ALIASES = {"ps": "status", "disaggregated": "proxy", "disaggregated_mpi_worker": "mpi-worker"}
_SIGPIPE_EXIT = 128 + 13


class _Commands(LazyGroup):
    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """As the library's, without an import of every command to see its help."""
        from click.shell_completion import CompletionItem

        names = [CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if not self.get_command(ctx, args[0]) and not ctx.resilient_parsing:
            near = difflib.get_close_matches(args[0], [*COMMANDS, *_ALIASES], n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; the number it returns is the exit code."""
        try:
            code = super().invoke(ctx)
        except TrtdisaggError as e:
            click.echo(f"trtdisagg: error: {e}", err=True)
            code = e.exit_code
        except KeyboardInterrupt:
            code = 130
        except BrokenPipeError:  # as in `trtdisagg logs | head`
            discard_stdout()
            code = _SIGPIPE_EXIT
        ctx.exit(code or 0)


@click.group(
    cls=_Commands,
    package="trtdisagg.cli",
    summaries=COMMANDS,
    aliases=_ALIASES,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="%(version)s")
def cli() -> None:
    """Disaggregated LLM serving from one file, brought up with one command and kept up.

    Exit codes: 0 ok, 1 failure, 2 usage or configuration, 3 not running, 4 not ready in time, 5 a server keeps
    dying, 128+N signal N.
    """


def main() -> None:
    """Entry point of the program."""
    cli(prog_name="trtdisagg")
