"""A group of commands that knows them by name only, and imports one when it is asked for: each needs other things."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click


class LazyGroup(click.Group):
    """
    :param package: where the commands are, each as `command` in the module of its name; a dash in a name is an
        underscore in that of its module.
    :param summaries: the names, and the first sentence of the help of each.
    :param aliases: other names for some of them.
    """

    def __init__(
        self,
        *args: Any,
        package: str,
        summaries: Mapping[str, str],
        aliases: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.summaries = summaries
        self.aliases = aliases or {}
        self._package = package

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(self.summaries)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = self.aliases.get(cmd_name, cmd_name)
        if name not in self.summaries:
            return None
        command: click.Command = importlib.import_module(f"{self._package}.{name.replace('-', '_')}").command
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.summaries.items()))
