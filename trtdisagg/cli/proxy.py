"""`trtdisagg proxy`."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec
from msgspec.structs import replace

from trtdisagg.cli.terminal import say
from trtdisagg.cli.upstream_options import UNDERSCORES_TOO, no_effect
from trtdisagg.config.load import load
from trtdisagg.config.metadata import load_metadata
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.proxy_spec import MetadataSpec, ProxySpec
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.ports import check_free
from trtdisagg.supervisor.survey import survey


@click.command(context_settings=UNDERSCORES_TOO)
@click.option("--spec", type=click.Path(path_type=Path), metavar="FILE", help="Spec file, as the supervisor writes it.")
@click.option(
    "-c",
    "--config",
    "--config_file",
    metavar="FILE",
    help="Cluster file; its servers run already, even with a `model`.",
)
@click.option("-m", "--metadata", "--metadata_server_config_file", metavar="FILE", help="Where servers are registered.")
@no_effect("-t", "--server_start_timeout", because="servers are taken as they come, and requests are a 503 until then")
@no_effect("-r", "--request_timeout", because="requests have the deadlines under `proxy:` in the file")
@no_effect("-l", "--log_level", because="there is one level of logging")
def command(spec: Path | None, config: str | None, metadata: str | None) -> int:
    """Route requests to servers that run already.

    Nothing is started but the proxy itself, in the foreground; with `proxy.num_workers`, its processes, which are kept
    up until Ctrl-C.
    """
    if (spec is None) == (config is None):
        raise click.UsageError("one of --spec and -c is needed")
    if spec is not None and metadata is not None:
        raise click.UsageError("-m goes with -c; a spec file says itself where servers are registered")
    if spec is not None:
        return _run(_read(spec))
    plan = _plan(config or "", metadata)
    assert plan.proxy is not None
    assert isinstance(plan.proxy.spec, ProxySpec)
    if plan.proxy.spec.num_workers == 1:
        return _run(replace(plan.proxy.spec, secret_file=plan.secret_file))
    from trtdisagg.cli.foreground import run_with_lines

    return run_with_lines(plan, Place.of(f"proxy {config} {os.getpid()}", plan.cluster))


def _run(spec: ProxySpec) -> int:
    from trtdisagg.proxy.serve import run_proxy

    return run_proxy(spec)


def _read(path: Path) -> ProxySpec:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ProxySpec)
    except (OSError, msgspec.DecodeError) as e:
        raise ConfigError(f"{path}: not the spec file of a proxy: {e}") from None


def _plan(file: str, metadata: str | None) -> Plan:
    """Of a cluster whose servers all run already."""
    loaded = load(file, only_routes=True, elsewhere=metadata is not None)
    say(*loaded.no_effect)
    plan = survey(loaded.cluster, name=loaded.name, file=loaded.path, elsewhere=metadata is not None)
    assert plan.proxy is not None
    assert isinstance(plan.proxy.spec, ProxySpec)
    spec = plan.proxy.spec
    check_free(spec.host, spec.port, "the proxy")
    if metadata is not None:
        spec = replace(spec, metadata=read_metadata(metadata))
    return replace(plan, proxy=replace(plan.proxy, spec=spec))


def read_metadata(file: str) -> MetadataSpec:
    """
    :raises ConfigError: with file, line and key.
    """
    spec, notices = load_metadata(Path(file))
    say(*notices)
    return spec
