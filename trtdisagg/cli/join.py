"""`trtdisagg join`: servers for a cluster that runs already, from another terminal or machine."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec.structs import replace

from trtdisagg.cli.server_options import given, section_of, server_options
from trtdisagg.cli.terminal import say
from trtdisagg.cli.upstream_options import UNDERSCORES_TOO
from trtdisagg.config.load import assemble, load, of_one_model
from trtdisagg.config.located import Located, Place
from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.sections import SECTIONS
from trtdisagg.config.uri import ClusterUri, parse_uri
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.proxy_spec import RegistrySpec
from trtdisagg.protocol.spec import Role
from trtdisagg.supervisor.join_plan import Joining, check_host, plan_join
from trtdisagg.supervisor.nearby import find_nearby, is_here
from trtdisagg.supervisor.place import Place as RunPlace
from trtdisagg.supervisor.proxy_plan import registry_of


@click.command(context_settings=UNDERSCORES_TOO)
@click.option(
    "--cluster", "uri", required=True, metavar="URI", help="http(s)://HOST:PORT of its proxy, or etcd://HOST."
)
@click.option("--cluster-name", metavar="NAME", help="Its `cluster_name` in etcd; a proxy says it itself.")
@click.option(
    "--role",
    type=click.Choice(["context", "generation", "both"], case_sensitive=False),
    required=True,
    help="What they are to do.",
)
@click.option("-n", "--num", type=click.IntRange(1, 1024), default=1, show_default=True, help="How many servers.")
@click.option("--host", default="localhost", show_default=True, help="Address of this host that the cluster reaches.")
@click.option("--secret-file", "--secret_file", metavar="FILE", help="The cluster's secret (0600).")
@click.option("--ca-file", metavar="FILE", help="Certificates that its own is checked against. [default: the system's]")
@click.option("--name", metavar="NAME", help="What the servers' names begin with.")
@click.option("-f", "--file", metavar="FILE", help="Cluster file that says what the servers are.")
@click.option("--model", help="Without a file: alias, hub id, directory, or .gguf file.")
@click.option("--served_model_name", help="What clients ask for; with a file of several models, which of them.")
@server_options
def command(
    *,
    uri: str,
    cluster_name: str | None,
    role: Role,
    num: int,
    host: str,
    secret_file: str | None,
    ca_file: str | None,
    name: str | None,
    file: str | None,
    model: str | None,
    served_model_name: str | None,
    **options: Any,
) -> int:
    """Add servers to a cluster that runs.

    They are started and looked after here, and leave in order when this ends. What they are is said by a cluster file,
    or by --model and options as of `serve`; of a cluster of this user on this host, its own file and secret are known.
    """
    where = _parse(uri)
    _check_reachable(where, host)
    nearby = find_nearby(where, uri)
    if nearby is not None:
        file = file or (str(nearby.file) if nearby.file and not model else None)
        secret_file = secret_file or (str(nearby.secret_file) if nearby.secret_file else None)
    cluster = _read(file, model, served_model_name, role, options)
    if ca_file is not None:
        trusted = replace(cluster.disagg_cluster, ca_file=str(Path(ca_file).expanduser().absolute()))
        cluster = replace(cluster, disagg_cluster=trusted)
    secret = str(Path(secret_file).expanduser().absolute()) if secret_file else None
    registry, named = _registry(where, uri, cluster, cluster_name, secret)
    joining = Joining(
        role=role,
        num=num,
        host=host,
        name=name or f"{role}-{_short_hostname()}-{os.getpid()}",
        cluster=named,
        registry=registry,
        secret_file=secret,
    )
    plan = plan_join(cluster, joining, file=Path(file).absolute() if file else None)
    say(*plan.notices)
    from trtdisagg.cli.foreground import run_with_lines

    return run_with_lines(plan, RunPlace.of(f"join {uri} {os.getpid()}", joining.name))


def _parse(uri: str) -> ClusterUri:
    try:
        return parse_uri(uri)
    except ValueError as e:
        raise ConfigError(f"--cluster: {e}") from None


def _check_reachable(where: ClusterUri, host: str) -> None:
    check_host(host)
    far = where.endpoints[0].partition("://")[2].rpartition(":")[0].strip("[]")
    if host == "localhost" and not is_here(far):
        raise ConfigError(f"--host: the cluster is on {far}; name an address of this host that it can reach")


def _short_hostname() -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", socket.gethostname().partition(".")[0]).strip("-")[:24] or "host"


# --- what the servers are -------------------------------------------------------------------------------------------


def _read(
    file: str | None, model: str | None, served_model_name: str | None, role: Role, options: dict[str, Any]
) -> ClusterFile:
    if file is not None:
        if model:
            raise click.UsageError(f"--model and the file {file} both say what the servers are; give one of them")
        if set_ := given(options):
            raise click.UsageError(f"{set_[0]}: is said by the file {file}")
        loaded = load(file)
        say(*loaded.no_effect)
        return _one_of(loaded.cluster, file, served_model_name)
    if model is None:
        raise click.UsageError("--model or --file is needed: what are the servers to serve?")
    return _assemble(model, served_model_name, role, options)


def _one_of(cluster: ClusterFile, file: str, served_model_name: str | None) -> ClusterFile:
    """The file as if the model that is meant were its only one."""
    if not cluster.models:
        if served_model_name:
            raise click.UsageError(f"--served_model_name: is said by the file {file}")
        if cluster.model is None:
            raise ConfigError(f"{file}: names no model, so no server can be started from it; give --model")
        return cluster
    entries = {entry.served_name: entry for entry in cluster.models if entry.model}
    if served_model_name not in entries:
        known = ", ".join(entries) or "none that could be started"
        raise ConfigError(f"--served_model_name: names one of the models of {file}: {known}")
    return of_one_model(cluster, entries[served_model_name])


def _assemble(model: str, served_model_name: str | None, role: Role, options: dict[str, Any]) -> ClusterFile:
    place = Place("join")
    top = {"model": model, "served_model_name": served_model_name}
    root = {key: Located(value, place) for key, value in top.items() if value is not None}
    section = SECTIONS[0] if role == "context" else SECTIONS[1]
    root[section] = Located(section_of(options), place)
    made = assemble(Located(root, place), Path())
    say(*made.no_effect)
    return made.cluster


# --- where they register --------------------------------------------------------------------------------------------


def _registry(
    where: ClusterUri, uri: str, cluster: ClusterFile, cluster_name: str | None, secret_file: str | None
) -> tuple[RegistrySpec, str]:
    """
    :returns: also the cluster's name, for people.
    :raises RegistryError: nobody is there, or lets nobody in.
    """
    import anyio

    from trtdisagg.registry.open import ask_about

    said = registry_of(replace(cluster.disagg_cluster, cluster_uri=uri))
    assert said is not None
    if cluster_name is not None:
        said = replace(said, cluster_name=cluster_name)
    about = anyio.run(ask_about, said, secret_file)
    if about is None:
        return said, said.cluster_name or "cluster"
    if cluster_name is not None and cluster_name != about.cluster_name:
        raise ConfigError(f"--cluster-name {cluster_name}: the cluster at {uri} has {about.cluster_name!r}")
    assert where.kind == "proxy"
    known = msgspec.structs.asdict(about)
    taken = {key: known[key] for key in ("cluster_name", "heartbeat_s", "inactive_s")}
    return replace(said, **taken), about.cluster
