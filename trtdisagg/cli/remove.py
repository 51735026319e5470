"""`trtdisagg remove`."""

from __future__ import annotations

import click

from trtdisagg.cli.find import asked, cluster_option, no_wait_option, timeout_option
from trtdisagg.cli.names import complete_server_or_file
from trtdisagg.cli.terminal import say
from trtdisagg.protocol.control import ServersRequest


@click.command()
@click.argument("words", nargs=-1, metavar="[FILE] NAME...", shell_complete=complete_server_or_file)
@cluster_option
@timeout_option
@no_wait_option
def command(words: tuple[str, ...], cluster: str | None, timeout: float | None, no_wait: bool) -> None:
    """Drain servers and forget them.

    As `drain`, but the server is gone from the table then. Returns when nothing holds it any more: the agent and the
    proxy have said `Server HOST:PORT is removed`.
    """
    client, names = asked(words, cluster)
    request = ServersRequest(names=names, timeout_s=timeout, wait=not no_wait)
    say(*client.ask("remove", request).lines)
