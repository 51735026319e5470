"""Which cluster a command is about: that of a file, of a name, or the only one that runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click

from trtdisagg.cli.names import complete_cluster
from trtdisagg.errors import ConfigError, NotRunningError
from trtdisagg.supervisor import rundir
from trtdisagg.supervisor.client import ControlClient
from trtdisagg.supervisor.place import Place

DEFAULT_FILE = Path("cluster.yaml")

cluster_argument: Callable[[Any], Any] = click.argument(
    "cluster", required=False, metavar="[FILE|NAME]", shell_complete=complete_cluster
)
"""What `down` and `status` take; see `find_cluster`."""

set_option: Callable[[Any], Any] = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="In place of what the file says; may be repeated."
)
"""What commands that read a cluster file take: `load(path, overrides)`."""


class Asked(NamedTuple):
    """What a verb on servers is about."""

    client: ControlClient
    names: list[str]


def asked(words: Sequence[str], cluster: str | None) -> Asked:
    """Tell the cluster file among the words from the rest.

    :param cluster: file or name, where an option gave one.
    :raises ConfigError: several files, or nothing but one.
    :raises NotRunningError: the cluster does not run.
    """
    files = [word for word in words if Path(word).suffix in (".yaml", ".yml")]
    names = [word for word in words if word not in files]
    found = {word for word in [*files, cluster] if word is not None}
    if len(found) > 1:
        raise ConfigError(f"one cluster, please, not {' and '.join(sorted(found))}")
    if not names:
        raise ConfigError("name a server (see `trtdisagg status`), or `all`")
    return Asked(ControlClient(find_cluster(found.pop() if found else None)), names)


cluster_option: Callable[[Any], Any] = click.option(
    "-f", "--file", "cluster", metavar="FILE|NAME", shell_complete=complete_cluster, help="Which cluster."
)
timeout_option: Callable[[Any], Any] = click.option(
    "-t", "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Deadline of a drain."
)
no_wait_option: Callable[[Any], Any] = click.option(
    "--no-wait", is_flag=True, help="Return when it has begun, not when it is done."
)


def find_cluster(word: str | None) -> Place:
    """The place of a cluster that runs, or ran.

    :param word: a cluster file or a cluster's name; None: cluster.yaml in this directory, or the only one that runs.
    :raises NotRunningError: there is no such cluster.
    :raises ConfigError: the word fits several.
    """
    if word is None:
        return _default()
    if found := rundir.find(Path(word)):
        return found
    if named := rundir.find_by_name(word):
        return _only(named, f"clusters named {word}")
    missing = "" if Path(word).exists() else "; there is no such file and no cluster of that name"
    raise NotRunningError(f"{word} is not running{missing}")


def _default() -> Place:
    if found := rundir.find(DEFAULT_FILE):
        return found
    running = rundir.find_running()
    if not running:
        raise NotRunningError("no cluster is running")
    return _only(running, "clusters")


def _only(places: list[Place], what: str) -> Place:
    if len(places) > 1:
        names = {place.run_dir.name.rpartition("-")[0] for place in places}
        if len(names) < len(places):
            names = {place.run_dir.name for place in places}
        raise ConfigError(f"several {what} run: {', '.join(sorted(names))}; name the one you mean, or its file")
    return places[0]


def cluster_file(words: tuple[str | None, ...]) -> Path:
    """The file that `up` and `check` are about, by argument or option.

    :raises ConfigError: two files were given, or none and there is no cluster.yaml here, or something like a model.
    """
    given = {word for word in words if word is not None}
    if len(given) > 1:
        raise ConfigError(f"one cluster file, please, not {' and '.join(sorted(given))}")
    if not given and not DEFAULT_FILE.exists():
        raise ConfigError(
            f"there is no {DEFAULT_FILE} here; name a file, or let `trtdisagg init` write one for this machine"
        )
    file = Path(given.pop()) if given else DEFAULT_FILE
    if not file.suffix[1:].isalpha() and not file.exists():  # .yaml and .json are letters, the end of Qwen3-0.6B is not
        raise ConfigError(f"{file}: no such file; a cluster file for a model: `trtdisagg init --model {file}`")
    return file
