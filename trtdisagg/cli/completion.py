"""`trtdisagg completion`: the script that a shell sources once; it asks the program itself at each press of the key."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from trtdisagg.cli.main import cli

_PROGRAM = "trtdisagg"
_VARIABLE = "_TRTDISAGG_COMPLETE"
"""By which the program knows that a shell asks; the library makes it of the program's name."""


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what makes a shell complete commands and names.

    \b
    bash, in ~/.bashrc:                   source <(trtdisagg completion bash)
    zsh, in ~/.zshrc:                     source <(trtdisagg completion zsh)
    fish, once:                           trtdisagg completion fish > ~/.config/fish/completions/trtdisagg.fish

    Options, commands, cluster files, and the clusters and servers that run are completed.
    """
    complete = get_completion_class(shell)
    assert complete is not None
    click.echo(complete(cli, {}, _PROGRAM, _VARIABLE).source())
