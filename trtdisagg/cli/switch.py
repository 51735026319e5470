"""`trtdisagg switch`."""

from __future__ import annotations

from typing import get_args

import click

from trtdisagg.cli.find import asked, cluster_option, no_wait_option, timeout_option
from trtdisagg.cli.names import complete_server_or_file
from trtdisagg.cli.terminal import say
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.control import SwitchRequest
from trtdisagg.protocol.spec import Role


@click.command()
@click.argument("words", nargs=-1, metavar="[FILE] NAME", shell_complete=complete_server_or_file)
@click.option("--to", "role", type=click.Choice(get_args(Role)), required=True, help="The new role.")
@cluster_option
@timeout_option
@no_wait_option
def command(words: tuple[str, ...], role: Role, cluster: str | None, *, timeout: float | None, no_wait: bool) -> None:
    """Have a server go on in the other role.

    It finishes what it has and is routed to in its new role then, with its weights and its KV cache as they are. Where
    it does not get free within the deadline, it stays what it is.
    """
    client, names = asked(words, cluster)
    if len(names) != 1:
        raise ConfigError(f"one server at a time, not {', '.join(names)}")
    request = SwitchRequest(name=names[0], role=role, timeout_s=timeout, wait=not no_wait)
    say(*client.ask("switch", request).lines)
