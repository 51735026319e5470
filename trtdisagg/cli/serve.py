"""`trtdisagg serve`: a cluster of one server and no proxy, put together from options instead of a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from trtdisagg.cli.proxy import read_metadata
from trtdisagg.cli.server_options import section_of, server_options
from trtdisagg.cli.terminal import say
from trtdisagg.cli.upstream_options import UNDERSCORES_TOO
from trtdisagg.config.key_types import Backend
from trtdisagg.config.load import Assembled, assemble
from trtdisagg.config.located import Located, Place
from trtdisagg.config.sections import SECTIONS
from trtdisagg.net import join_address
from trtdisagg.protocol.spec import Role
from trtdisagg.slurm.allocation import num_tasks
from trtdisagg.supervisor.host import Host
from trtdisagg.supervisor.nodes.node import Node
from trtdisagg.supervisor.place import Place as RunPlace
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.survey import survey


def _join_instead(_context: click.Context, _parameter: click.Parameter, uri: str | None) -> None:
    if uri is not None:
        raise click.UsageError(
            f"a server that registers with a cluster is started by `trtdisagg join --cluster {uri} --role ROLE "
            "--model MODEL`"
        )


@click.command(context_settings=UNDERSCORES_TOO)
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
@click.option("--disagg_cluster_uri", hidden=True, expose_value=False, callback=_join_instead)
@click.option("--no-srun", is_flag=True, help="In a Slurm step of several tasks: a server in each, not a rank.")
@click.option(
    "--rendezvous",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where the tasks of a step find each other; all have to see it. [default: in the state directory]",
)
@click.option("--network", metavar="NAME|NET", help="What the tasks reach each other by: ib0, 10.1.0.0/16.")
def command(
    *,
    model: str,
    role: Role,
    host: str,
    port: int,
    served_model_name: str | None,
    secret_file: str | None,
    metadata: str | None,
    no_srun: bool,
    rendezvous: Path | None,
    network: str | None,
    **options: Any,
) -> int:
    """Run one server by hand, supervised, in the foreground.

    MODEL is an alias, a hub id, a directory with safetensors, or a .gguf file. The sizes are those of a section of the
    cluster file, where they are explained. `trtdisagg proxy` routes to servers started so. As a task of a Slurm step
    (`srun -n4 ... --tp_size 4`) it is one rank of the server, on the GPU and the cores that the task has.
    """
    in_step = not no_srun and num_tasks(os.environ) > 1
    address = join_address("localhost" if in_step else host, port)
    top = {"model": model, "served_model_name": served_model_name, "secret_file": secret_file}
    port_place = Place("--port")
    section = {"urls": Located([Located(address, port_place)], port_place), **section_of(options)}
    made = _assembled(role, section, top)
    name = f"{role}-{port or os.getpid()}"
    place = RunPlace.of(f"serve {address} {os.getpid()}", name)
    say(*made.no_effect)

    def plan_over(nodes_of: Callable[[Host], Sequence[Node]]) -> Plan:
        backend: Backend | None = None if role == "both" else "DEFAULT"
        plan = survey(made.cluster, name=name, with_proxy=False, default_backend=backend, nodes_of=nodes_of)
        return replace(plan, metadata=read_metadata(metadata)) if metadata else plan

    if in_step:
        from trtdisagg.cli.srun_serve import serve_in_step

        return serve_in_step(made.cluster, place, plan_over, host=host, rendezvous=rendezvous, network=network)
    from trtdisagg.cli.foreground import run_with_lines

    plan = plan_over(lambda _: ())
    say(*plan.notices)
    return run_with_lines(plan, place)


def _assembled(role: Role, section: dict[str, Located], top: dict[str, str | None]) -> Assembled:
    place = Place("serve")
    roles = [r for r in SECTIONS if role in ("both", r.removesuffix("_servers"))]
    root = {key: Located(value, place) for key, value in top.items() if value is not None}
    root |= {r: Located(section, place) for r in roles}
    return assemble(Located(root, place), Path())
