"""Where words go: data to stdout, what a command has to say beside it to stderr; colour only where it is wanted."""

from __future__ import annotations

import os
import sys
from typing import IO

import click
from rich.console import Console

from trtdisagg.cli.stdout import lasting_stdout


def say(*messages: object) -> None:
    """Lines for people, on stderr."""
    for message in messages:
        click.echo(str(message), err=True)


def console(stdout: IO[str] | None = None) -> Console:
    """For tables on stdout: in colour on a terminal, unless NO_COLOR is set; into a pipe plain and nothing cut off."""
    return Console(file=stdout or lasting_stdout(), width=None if sys.stdout.isatty() else _wide(), highlight=False)


def wants_colour() -> bool:
    """Whether lines on stdout are to be coloured."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def _wide() -> int:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isdigit() else 200
