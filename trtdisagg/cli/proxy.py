"""`trtdisagg proxy`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from msgspec.structs import replace

from trtdisagg.cli.terminal import say
from trtdisagg.config.load import load
from trtdisagg.config.located import read
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.spec import ProxySpec
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
    if metadata:
        refuse_metadata(Path(metadata))
    proxy_spec = _read(spec) if spec else _make(config or "")
    from trtdisagg.proxy.serve import run_proxy

    return run_proxy(proxy_spec)


def _read(path: Path) -> ProxySpec:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ProxySpec)
    except (OSError, msgspec.DecodeError) as e:
        raise ConfigError(f"{path}: not the spec file of a proxy: {e}") from None


def _make(file: str) -> ProxySpec:
    loaded = load(file, only_routes=True)
    say(*loaded.no_effect)
    plan = survey(loaded.cluster, name=loaded.name, file=loaded.path)
    assert plan.proxy is not None
    assert isinstance(plan.proxy.spec, ProxySpec)
    spec = replace(plan.proxy.spec, secret_file=plan.secret_file)
    check_free(spec.host, spec.port, "the proxy")
    return spec


def refuse_metadata(path: Path) -> None:
    """Servers that register themselves are looked for in no registry yet: the cluster file lists them.

    :raises ConfigError: always; what it says depends on the file.
    """
    kind = read(path).children.get("server_type")
    if kind is None:
        raise ConfigError(f"{path}: no server_type: this is not a metadata file")
    raise ConfigError(
        f"{kind.place}: server_type: {kind.plain()!r}: a registry outside the cluster is not there yet; "
        "list the servers under `urls` in the cluster file"
    )
