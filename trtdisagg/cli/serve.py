"""`trtdisagg serve`: a cluster of one server and no proxy, put together from options instead of a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from trtdisagg.cli.proxy import read_metadata
from trtdisagg.cli.server_options import section_of, server_options
from trtdisagg.cli.terminal import say
from trtdisagg.config.load import assemble
from trtdisagg.config.located import Located, Place
from trtdisagg.config.sections import SECTIONS
from trtdisagg.net import join_address
from trtdisagg.protocol.spec import Role
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.rundir import Place as RunPlace
from trtdisagg.supervisor.survey import survey


@click.command()
@click.argument("model")
@click.option(
    "--role",
    "--server_role",
    type=click.Choice(["context", "generation", "both"], case_sensitive=False),
    default="both",
    show_default=True,
)
@click.option("--host", default="localhost", show_default=True)
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any that is free.")
@server_options
@click.option("--served_model_name", help="What clients ask for.")
@click.option("--secret_file", metavar="FILE", help="The cluster's secret (0600), where others can reach the address.")
@click.option("--metadata_server_config_file", "metadata", metavar="FILE", help="Where it registers, the older way.")
def command(
    *,
    model: str,
    role: Role,
    host: str,
    port: int,
    served_model_name: str | None,
    secret_file: str | None,
    metadata: str | None,
    **options: Any,
) -> int:
    """Run one server by hand, supervised, in the foreground.

    MODEL is an alias, a hub id, a directory with safetensors, or a .gguf file. The sizes are those of a section of the
    cluster file, where they are explained. `trtdisagg proxy` routes to servers started so.
    """
    address = join_address(host, port)
    top = {"model": model, "served_model_name": served_model_name, "secret_file": secret_file}
    port_place = Place("--port")
    section = {"urls": Located([Located(address, port_place)], port_place), **section_of(options)}
    plan = _plan(role, section, top, name=f"{role}-{port or os.getpid()}")
    if metadata:
        plan = replace(plan, metadata=read_metadata(metadata))
    from trtdisagg.cli.foreground import run_with_lines

    return run_with_lines(plan, RunPlace.of(f"serve {address} {os.getpid()}", plan.cluster))


def _plan(role: Role, section: dict[str, Located], top: dict[str, str | None], *, name: str) -> Plan:
    place = Place("serve")
    roles = [r for r in SECTIONS if role in ("both", r.removesuffix("_servers"))]
    root = {key: Located(value, place) for key, value in top.items() if value is not None}
    root |= {r: Located(section, place) for r in roles}
    made = assemble(Located(root, place), Path())
    plan = survey(made.cluster, name=name, with_proxy=False, default_backend=None if role == "both" else "DEFAULT")
    say(*made.no_effect, *plan.notices)
    return plan
