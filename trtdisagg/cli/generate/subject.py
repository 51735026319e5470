"""What a generated file is about: a cluster file, the program that runs it, and how long that may take to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from trtdisagg.cli.find import cluster_file
from trtdisagg.cli.names import complete_file
from trtdisagg.cli.program import this_program
from trtdisagg.config.load import load

_INSTALLED = "of the machine that will use it, where that is another one"


class Subject(msgspec.Struct, kw_only=True, frozen=True):
    """
    :ivar name: the cluster's.
    :ivar file: the cluster file, absolute.
    :ivar program: the command that is `trtdisagg`.
    :ivar stop_s: from SIGTERM to the end of the last process, at the latest.
    """

    name: str
    file: Path
    program: list[str]
    stop_s: float


def subject_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """FILE, and where it and the program will be on another machine; see `subject`."""
    for option in (
        click.option("--program", metavar="PATH", help=f"The program, {_INSTALLED}."),
        click.option("--file-at", type=click.Path(path_type=Path), metavar="PATH", help=f"The file, {_INSTALLED}."),
        click.argument("file", required=False, shell_complete=complete_file),
    ):
        command = option(command)
    return command


def subject(file: str | None, *, file_at: Path | None, program: str | None) -> Subject:
    """
    :raises ConfigError: the cluster file is missing or wrong.
    """
    for path in (file_at, program):
        if path is not None and not Path(path).is_absolute():
            raise click.BadParameter(f"{path} is not an absolute path")
    loaded = load(cluster_file((file,)))
    rules = loaded.cluster.supervision
    return Subject(
        name=loaded.name,
        file=file_at or loaded.path,
        program=[program] if program else this_program(),
        stop_s=rules.drain_timeout_s + rules.kill_timeout_s,
    )
