"""`trtdisagg drain`."""

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
    """Let servers finish what they have, and stop them.

    NAME is that of a server (see `trtdisagg status`), or `all`. It gets no new requests; those that run are finished
    and KV that it holds is fetched, until the deadline (drain_timeout_s of the cluster file); then it ends. It stays in
    the table, stopped, until `restart`, `scale` or `up` starts it again.
    """
    client, names = asked(words, cluster)
    request = ServersRequest(names=names, timeout_s=timeout, wait=not no_wait)
    say(*client.ask("drain", request).lines)
