"""`trtdisagg scale`."""

from __future__ import annotations

import click

from trtdisagg.cli.find import asked, cluster_option, no_wait_option, timeout_option
from trtdisagg.cli.names import complete_role_count
from trtdisagg.cli.terminal import say
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.control import ScaleRequest


@click.command()
@click.argument("words", nargs=-1, metavar="[FILE] ROLE=COUNT...", shell_complete=complete_role_count)
@cluster_option
@timeout_option
@no_wait_option
def command(words: tuple[str, ...], cluster: str | None, timeout: float | None, no_wait: bool) -> None:
    """Have more or fewer servers of a role.

    As in `scale context=2 generation=3`, with several models `scale NAME.context=2`. New servers get what is free;
    those that are too many drain first, the newest before the others. `up` brings the numbers of the cluster file back.
    """
    client, counts = asked(words, cluster)
    request = ScaleRequest(counts=_counts(counts), timeout_s=timeout, wait=not no_wait)
    say(*client.ask("scale", request).lines)


def _counts(words: list[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for role, count in map(_count, words):
        if counts.setdefault(role, count) != count:
            raise ConfigError(f"{role}: one number, please, not {counts[role]} and {count}")
    return counts


def _count(word: str) -> tuple[str, int]:
    role, _, number = word.partition("=")
    if not number.isdecimal():
        raise ConfigError(f"{word}: expected ROLE=COUNT, as in generation=3")
    return role, int(number)
