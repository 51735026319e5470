"""Looks at this machine and at the models of a cluster file, and makes the plan."""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
from msgspec.structs import replace

from trtdisagg.config.key_types import Backend
from trtdisagg.config.schema import ClusterFile
from trtdisagg.config.server_keys import ServerSection
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.protocol.otlp import check_installed
from trtdisagg.protocol.spec import Role
from trtdisagg.supervisor.child_plan import ChildPlan
from trtdisagg.supervisor.host import Host, discover
from trtdisagg.supervisor.membership import with_whole_paths
from trtdisagg.supervisor.nodes.node import Node
from trtdisagg.supervisor.plan import ModelFacts, Plan, make_plan
from trtdisagg.supervisor.profiling import with_whole_path
from trtdisagg.supervisor.proxy_files import with_checked_files
from trtdisagg.supervisor.slots import Slot, slots
from trtdisagg.text.dimensions import read_dimensions
from trtdisagg.text.model_files import resolve_model
from trtdisagg.text.sampling_defaults import read_sampling_defaults


def survey(
    cluster: ClusterFile,
    *,
    name: str,
    file: Path | None = None,
    with_proxy: bool = True,
    default_backend: Backend | None = "DEFAULT",
    numbers: Mapping[str, Sequence[int]] | None = None,
    keep: Mapping[str, ChildPlan] | None = None,
    pids: Mapping[str, Sequence[int]] | None = None,
    roles: Mapping[str, Role] | None = None,
    elsewhere: bool = False,
    nodes_of: Callable[[Host], Sequence[Node]] = lambda _: (),
    part: Callable[[Host], Host] = lambda host: host,
) -> Plan:
    """Make the plan of a cluster file for this machine. A model that only the hub has is downloaded.

    :param file: where it was read from; paths in it are relative to its directory.
    :param with_proxy: False: servers alone (`trtdisagg serve`).
    :param default_backend: the transfer backend of servers whose section names none.
    :param numbers, keep, roles: what runs beside, see `make_plan`.
    :param pids: of those of `keep` that have processes now; None: all have all the memory they were planned to take.
    :param elsewhere: the proxy finds servers somewhere else, too.
    :param nodes_of: on which nodes servers are started, by what was found of this machine, which is the first of them;
        none: on this one alone.
    :param part: of this machine, what may be used.
    :raises ConfigError: when the file asks for what is not there or does not go together.
    :raises StartupError: when a model or the secret cannot be read, or there is too little memory, or too few GPUs.
    """
    directory = file.parent if file else Path()
    everything = list(slots(cluster, numbers))
    if cluster.secret_file is not None:
        cluster = replace(cluster, secret_file=str(_checked_secret(directory / cluster.secret_file)))
    cluster = replace(
        cluster,
        disagg_cluster=with_whole_paths(cluster.disagg_cluster, directory),
        proxy=with_checked_files(cluster.proxy, directory),
        profile=with_whole_path(cluster.profile, directory),
    )
    if cluster.otlp_config.otlp_traces_endpoint is not None:
        check_installed(cluster.otlp_config.otlp_traces_endpoint)
    host = part(discover(slot.host for slot in everything))
    nodes = nodes_of(host)
    return make_plan(
        cluster,
        name=name,
        host=host,
        nodes=nodes,
        models={model: _facts(model, directory, users) for model, users in _users(everything).items()},
        file=str(file) if file else None,
        with_proxy=with_proxy,
        default_backend=default_backend,
        numbers=numbers,
        keep=keep,
        resident=None if pids is None else _resident(keep or {}, pids, nodes[0].name if nodes else ""),
        roles=roles,
        elsewhere=elsewhere,
    )


def _resident(keep: Mapping[str, ChildPlan], pids: Mapping[str, Sequence[int]], here: str) -> dict[str, int]:
    """What each server holds of this machine now.

    :param here: name of this node; of a pid elsewhere nothing is known here.
    """
    return {name: _resident_bytes(child, pids[name], here) if name in pids else 0 for name, child in keep.items()}


def _resident_bytes(child: ChildPlan, pids: Sequence[int], here: str) -> int:
    """A GPU's memory is taken in one piece at the start; the host's as it is filled."""
    if child.gpus:
        return sum(child.rank_bytes)
    nodes = [node for node, _ in child.memories]
    return sum(_resident_of(pid) for pid, node in zip(pids, nodes, strict=False) if node == here)


def _resident_of(pid: int) -> int:
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


def _users(everything: list[Slot]) -> dict[str, list[ServerSection]]:
    """The sections that serve each model."""
    users: dict[str, list[ServerSection]] = {}
    for slot in everything:
        if slot.model is not None:
            users.setdefault(slot.model, []).append(slot.section)
    return users


def _facts(model: str, directory: Path, users: list[ServerSection]) -> ModelFacts:
    """
    :raises ConfigError, StartupError: when the model cannot be read, unless only programs of the user's own need it.
    """
    try:
        files = resolve_model(_relative(model, directory))
        dimensions = read_dimensions(files)
    except (ConfigError, StartupError):
        if all(section.command for section in users):
            return ModelFacts(path=model, served_name=Path(model).name, dimensions=None)
        raise
    return ModelFacts(
        path=files.path,
        served_name=files.served_name,
        dimensions=dimensions,
        sampling_defaults=read_sampling_defaults(files),
    )


def _relative(model: str, directory: Path) -> str:
    """A path is relative to the cluster file; what lies nowhere there is an alias or a hub id."""
    here = directory / Path(model).expanduser()
    looks_like_path = "/" in model or model.endswith(".gguf")
    return str(here) if looks_like_path and here.exists() else model


def _checked_secret(path: Path) -> Path:
    """
    :raises StartupError: when the file is missing or others may read it.
    """
    path = path.expanduser().absolute()
    try:
        mode = path.stat().st_mode
    except OSError as e:
        way_out = (
            f"; `(umask 077; openssl rand -hex 32 > {path})` makes one" if isinstance(e, FileNotFoundError) else ""
        )
        raise StartupError(f"The secret_file {path} cannot be read: {e.strerror}{way_out}") from e
    if stat.S_IMODE(mode) & 0o077:
        raise StartupError(f"The secret_file {path} can be read by others; `chmod 600` it")
    return path
