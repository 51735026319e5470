"""`trtdisagg generate api-key`: a new key for a client, and its entry in the file of keys."""

from __future__ import annotations

import re

import click
import msgspec

from trtdisagg.config.api_keys import NAME_PATTERN, make_api_key
from trtdisagg.errors import ConfigError


@click.command("api-key")
@click.argument("name")
@click.option("--requests-per-minute", type=click.IntRange(min=1), metavar="N", help="More are answered 429.")
@click.option("--max-in-flight", type=click.IntRange(min=1), metavar="N", help="Requests at once; more are a 429.")
def api_key(name: str, requests_per_minute: int | None, max_in_flight: int | None) -> None:
    """Make an API key: shown once on stderr, its entry for `proxy.api_keys_file` on stdout.

    >> FILE appends it; a proxy that runs sees it within a second.
    """
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(f"{name!r}: a name has 1 to 64 letters, digits and ._@-, the first a letter or digit")
    key, entry = make_api_key(name)
    limited = msgspec.structs.replace(entry, requests_per_minute=requests_per_minute, max_in_flight=max_in_flight)
    click.echo(f"The key of {name}, shown this once: {key}", err=True)
    click.echo(msgspec.yaml.encode([limited]).decode(), nl=False)
