"""`trtdisagg generate`: files for what surrounds a cluster. Each is printed; where it goes is for its reader to say."""

from __future__ import annotations

import click

from trtdisagg.cli.generate.api_key import api_key
from trtdisagg.cli.generate.grafana import grafana
from trtdisagg.cli.generate.systemd import systemd


@click.group()
def command() -> None:
    """Write a systemd unit, a Grafana dashboard or an API key.

    It is printed; > FILE puts it where it belongs.
    """


for _each in (systemd, grafana, api_key):
    command.add_command(_each)
