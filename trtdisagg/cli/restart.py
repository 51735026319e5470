"""`trtdisagg restart`."""

from __future__ import annotations

import click

from trtdisagg.cli.find import asked, cluster_option, no_wait_option, timeout_option
from trtdisagg.cli.names import complete_server_or_file
from trtdisagg.cli.terminal import say
from trtdisagg.protocol.control import ServersRequest


@click.command()
@click.argument("words", nargs=-1, metavar="[FILE] NAME...", shell_complete=complete_server_or_file)
@cluster_option
@click.option("--rolling", is_flag=True, help="One after the other.")
@timeout_option
@no_wait_option
def command(
    words: tuple[str, ...], cluster: str | None, *, rolling: bool, timeout: float | None, no_wait: bool
) -> None:
    """Start servers anew.

    NAME is that of a server, `proxy`, or `all`. Each drains first; one that was stopped or has failed is started. With
    --rolling one after the other, each when the one before is ready, so that no request is lost.
    """
    client, names = asked(words, cluster)
    request = ServersRequest(names=names, rolling=rolling, timeout_s=timeout, wait=not no_wait)
    say(*client.ask("restart", request).lines)
