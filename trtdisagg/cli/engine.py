"""`trtdisagg engine`: becomes a rank. The engine half is a program of its own and is not imported here."""

from __future__ import annotations

import os
import sys

import click


@click.command()
@click.option("--spec", required=True, metavar="FILE", help="Spec file, as the supervisor writes one.")
def command(spec: str) -> None:
    """Run one rank from a spec file."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "trtdisagg.engine", "--spec", spec])  # noqa: S606 (no shell wanted)
