"""Ranks that run under a profiler: `nsys profile --output=FILE PROGRAM ...` in the program's place.

The profiler is the rank's parent then, and writes its report when the rank has ended: `kill_timeout_s` is for both.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec.structs import replace

from trtdisagg.config.supervisor_keys import ProfileConfig
from trtdisagg.errors import ConfigError

_LASTING = "--kill=none"
"""The end of a recording (`--duration`) is not the end of the rank."""


class Profile(msgspec.Struct, kw_only=True, frozen=True):
    """Of one server."""

    argv: list[str]
    """Without the name of the report and the rank's own command, which follow."""
    folder: str
    ranks: list[int]

    def around(self, argv: list[str], incarnation: str, rank: int) -> list[str]:
        """The command of a rank, whose report no other start of it writes over."""
        if rank not in self.ranks:
            return argv
        return [*self.argv, f"--output={self.folder}/{incarnation}.rank{rank}", *argv]

    def make_folder(self) -> None:
        """The profiler itself makes none."""
        Path(self.folder).mkdir(parents=True, exist_ok=True)


def profile_of(server: str, num_ranks: int, config: ProfileConfig | None) -> Profile | None:
    """
    :param config: with a whole path.
    :raises ConfigError: the server has no such rank.
    """
    if config is None or server not in config.servers:
        return None
    ranks = config.ranks or [0]
    if max(ranks) >= num_ranks:
        raise ConfigError(f"profile.ranks: {server} has {num_ranks}, counted from 0, so there is no {max(ranks)}")
    return Profile(argv=[config.tool, "profile", _LASTING, *config.args], folder=config.output_dir, ranks=ranks)


def with_whole_path(config: ProfileConfig | None, directory: Path) -> ProfileConfig | None:
    """:param directory: of the cluster file."""
    if config is None:
        return None
    return replace(config, output_dir=str((directory / Path(config.output_dir).expanduser()).absolute()))


def check_profiled(config: ProfileConfig | None, servers: Iterable[str]) -> None:
    """
    :param servers: names of those that are ours to start, by the file.
    :raises ConfigError: there is none of a name.
    """
    known = list(servers)
    for name in config.servers if config else []:
        if name not in known:
            raise ConfigError(f"profile.servers: there is no {name} to start; there are {', '.join(known) or 'none'}")
