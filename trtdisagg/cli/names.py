"""Names for the shell to complete: of clusters that run, and of their servers.

Asked at each press of a key, so it only looks at files: who runs is who holds a lock, and a server's spec file lies in
the runtime directory of its cluster. No agent is asked: one that hangs would hang the shell.
"""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem

from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.server_name import ServerName, parse_name

_ROLES = ("context", "generation")


def complete_file(_ctx: click.Context, _param: click.Parameter, _incomplete: str) -> list[CompletionItem]:
    """A cluster file."""
    return [_FILES]


def complete_cluster(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A cluster's name or file."""
    names = [place.run_dir.name.rpartition("-")[0] for place in rundir.find_running()]
    return [_FILES, *_beginning(names, incomplete)]


def complete_server_or_file(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A server of any cluster that runs, or a cluster file."""
    return [_FILES, *_beginning(_children(), incomplete)]


def complete_log(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Whose log there is, and the clusters as of `complete_cluster`."""
    logs = [path.stem for place in rundir.find_running() for path in place.log_dir.glob("*.log")]
    return [*complete_cluster(_ctx, _param, incomplete), *_beginning(logs, incomplete)]


def complete_role_count(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """`context=`, with several models `NAME.context=`, to be followed by a number; and cluster files."""
    models = {parse_name(child).model for child in _children()} | {""}
    groups = [ServerName(model, role, 0).group for model in models for role in _ROLES]
    return [_FILES, *_beginning([f"{group}=" for group in groups], incomplete)]


_FILES = CompletionItem("", type="file")
"""Told first: the shell completes files beside the names, or where no name fits."""


def _children() -> list[str]:
    return [path.stem for place in rundir.find_running() for path in place.run_dir.glob("*.json")]


def _beginning(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in sorted(set(names)) if name.startswith(incomplete)]
