"""`trtdisagg generate systemd`: a unit file. Its words for what happens are sent by supervisor/notify.py."""

from __future__ import annotations

import getpass
import math
import re
from pathlib import Path

import click

from trtdisagg.cli.generate.subject import Subject, subject, subject_options
from trtdisagg.errors import ConfigError

_MARGIN_S = 30
"""For everything but the drain and the pause before SIGKILL."""

_UNIT = """\
# {path}
#   systemctl{user_option} daemon-reload
#   systemctl{user_option} enable --now {name}
#   systemctl{user_option} status {name}       reload: reads the cluster file again, stop: drains first
{linger}\
[Unit]
Description=trtdisagg cluster {cluster}
{network}\
# Five failures within five minutes, and it is left for somebody to look at.
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
# It says itself when it can serve, reloads and stops; only the supervisor may say so, none of its servers.
Type=notify
NotifyAccess=main
{identity}\
WorkingDirectory={directory}
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID

# Servers that do not come up end the start: supervision.start_timeout_s of the cluster file.
TimeoutStartSec=infinity
# SIGTERM to the supervisor alone, which drains and ends its servers in order; what is then left is killed.
KillMode=mixed
# The cluster file's drain_timeout_s and kill_timeout_s, and {margin} s. A longer drain asks for more time itself.
TimeoutStopSec={timeout_stop_s}
# Fed by the supervisor's event loop: if that hangs, the service is started again.
WatchdogSec=30
Restart=on-failure
RestartSec=5
# A cluster file that is wrong stays wrong.
RestartPreventExitStatus=2
SuccessExitStatus=143

# One server out of memory is started again by the supervisor, the others go on.
OOMPolicy=continue
# Pinned KV cache, and a descriptor for each stream of each client.
LimitMEMLOCK=infinity
LimitNOFILE=1048576
Delegate=yes

[Install]
WantedBy={wanted_by}
"""

_LINGER = """\
# To have it run without a login: loginctl enable-linger
"""

_NETWORK = """\
Wants=network-online.target
After=network-online.target
"""

_IDENTITY = """\
User={account}
# Where `trtdisagg status` of this user finds it.
RuntimeDirectory=trtdisagg/{name}
RuntimeDirectoryMode=0700
Environment=XDG_RUNTIME_DIR=%t/trtdisagg/{name}
"""


@click.command()
@subject_options
@click.option("--user", is_flag=True, help="A unit of your own (systemctl --user) rather than the machine's.")
@click.option("--account", metavar="NAME", help="Whom the machine's unit runs as. [default: you]")
@click.option("--name", metavar="NAME", help="The unit's. [default: trtdisagg-CLUSTER]")
def systemd(
    *,
    file: str | None,
    file_at: Path | None,
    program: str | None,
    user: bool,
    account: str | None,
    name: str | None,
) -> None:
    """Print a unit file that runs a cluster as a service."""
    of = subject(file, file_at=file_at, program=program)
    if user and account:
        raise click.UsageError("--account is for the machine's unit; with --user it is you")
    name = (name or f"trtdisagg-{of.name}").removesuffix(".service")
    account = account or getpass.getuser()
    for option, word in (("--name", name), ("--account", account)):
        if not re.fullmatch(r"[\w.-]+", word, flags=re.ASCII):
            raise click.BadParameter(f"{word!r}: letters, digits and - _ . only", param_hint=option)
    click.echo(user_unit(of, name) if user else system_unit(of, name, account), nl=False)


def system_unit(of: Subject, name: str, account: str) -> str:
    """A unit of the machine's service manager.

    :param account: whom it runs as.
    """
    return _unit(
        of,
        name,
        path=f"/etc/systemd/system/{name}.service",
        identity=_IDENTITY.format(account=account, name=name),
        network=_NETWORK,
        wanted_by="multi-user.target",
    )


def user_unit(of: Subject, name: str) -> str:
    """A unit of a user's own service manager, which has the user's runtime directory."""
    return _unit(
        of,
        name,
        path=f"~/.config/systemd/user/{name}.service",
        user_option=" --user",
        linger=_LINGER,
        wanted_by="default.target",
    )


def _unit(
    of: Subject,
    name: str,
    *,
    path: str,
    wanted_by: str,
    user_option: str = "",
    linger: str = "",
    network: str = "",
    identity: str = "",
) -> str:
    return _UNIT.format(
        name=name,
        cluster=of.name,
        path=path,
        user_option=user_option,
        linger=linger,
        network=network,
        identity=identity,
        directory=_escaped(str(of.file.parent)),
        command=_command([*of.program, "up", str(of.file), "--no-tui"]),
        margin=_MARGIN_S,
        timeout_stop_s=math.ceil(of.stop_s) + _MARGIN_S,
        wanted_by=wanted_by,
    )


def _escaped(text: str) -> str:
    """Without what systemd would put something else for."""
    return text.replace("%", "%%")


def _command(words: list[str]) -> str:
    """A command line, as systemd reads it; a variable is put in for $NAME everywhere but in the program.

    :raises ConfigError: it would not take that program.
    """
    if set("\"'\\") & set(words[0]):
        raise ConfigError(f"{words[0]}: systemd takes no quotes and backslashes in a program's name; see --program")
    program, *arguments = map(_escaped, words)
    return " ".join(map(_word, [program, *(word.replace("$", "$$") for word in arguments)]))


def _word(text: str) -> str:
    """In quotes, where it needs them."""
    if re.fullmatch(r"[\w@%+=:,./$-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
