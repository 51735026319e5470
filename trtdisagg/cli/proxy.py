"""`trtdisagg proxy`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from msgspec.structs import replace

from trtdisagg.cli.terminal import say
from trtdisagg.config.load import load
from trtdisagg.config.metadata import load_metadata
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.spec import MetadataSpec, ProxySpec
from trtdisagg.supervisor.ports import check_free
from trtdisagg.supervisor.survey import survey


@click.command()
@click.option("--spec", type=click.Path(path_type=Path), metavar="FILE", help="Spec file, as the supervisor writes it.")
@click.option("-c", "--config", metavar="FILE", help="Cluster file; its servers run already, even with a `model`.")
@click.option("-m", "--metadata", "--metadata_server_config_file", metavar="FILE", help="Where servers are registered.")
def command(spec: Path | None, config: str | None, metadata: str | None) -> int:
    """Route requests to servers that run already.

    Nothing is started but the proxy itself, in the foreground.
    """
    if (spec is None) == (config is None):
        raise click.UsageError("one of --spec and -c is needed")
    if spec is not None and metadata is not None:
        raise click.UsageError("-m goes with -c; a spec file says itself where servers are registered")
    proxy_spec = _read(spec) if spec else _make(config or "", metadata)
    from trtdisagg.proxy.serve import run_proxy

    return run_proxy(proxy_spec)


def _read(path: Path) -> ProxySpec:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ProxySpec)
    except (OSError, msgspec.DecodeError) as e:
        raise ConfigError(f"{path}: not the spec file of a proxy: {e}") from None


def _make(file: str, metadata: str | None) -> ProxySpec:
    loaded = load(file, only_routes=True, elsewhere=metadata is not None)
    say(*loaded.no_effect)
    plan = survey(loaded.cluster, name=loaded.name, file=loaded.path, elsewhere=metadata is not None)
    assert plan.proxy is not None
    assert isinstance(plan.proxy.spec, ProxySpec)
    spec = replace(plan.proxy.spec, secret_file=plan.secret_file)
    if metadata is not None:
        spec = replace(spec, metadata=read_metadata(metadata))
    check_free(spec.host, spec.port, "the proxy")
    return spec


def read_metadata(file: str) -> MetadataSpec:
    """
    :raises ConfigError: with file, line and key.
    """
    spec, notices = load_metadata(Path(file))
    say(*notices)
    return spec
