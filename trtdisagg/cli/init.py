"""`trtdisagg init`."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from trtdisagg.cli.find import DEFAULT_FILE
from trtdisagg.cli.names import complete_file
from trtdisagg.cli.terminal import say
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.supervisor.host import discover
from trtdisagg.supervisor.ports import check_free
from trtdisagg.supervisor.starter import machine_words, starter_file
from trtdisagg.text.dimensions import read_dimensions
from trtdisagg.text.model_files import resolve_model

_PORTS = range(8000, 8100)


@click.command()
@click.argument("file", default=str(DEFAULT_FILE), shell_complete=complete_file)
@click.option("--model", default="smollm2-135m-instruct", show_default=True, help="Alias, hub id, directory or .gguf.")
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def command(file: str, model: str, *, force: bool) -> None:
    """Write a cluster file for this machine.

    Every key in it is explained. FILE is cluster.yaml in this directory unless another is named; `-` is stdout. A
    model that only the hub has is downloaded, because the sizes depend on it.
    """
    path = Path(file)
    if file != "-" and not force and path.exists():
        raise ConfigError(_exists(file))
    dimensions = read_dimensions(resolve_model(model))
    host = discover()
    shown = str(DEFAULT_FILE) if file == "-" else shlex.quote(file)
    text = starter_file(host, _as_seen_from(path, model), dimensions, file=shown, port=_free_port())
    if file == "-":
        click.echo(text, nl=False)
        return
    _write(path, text, force=force)
    say(f"{file} is for this machine: {machine_words(host)}", f"Run it with: trtdisagg up {shown}")


def _exists(file: str) -> str:
    return f"{file} is there already and is left as it is; --force writes over it"


def _as_seen_from(file: Path, model: str) -> str:
    """Paths in a cluster file are relative to its directory, on the command line to ours."""
    path = Path(model).expanduser()
    is_relative = not path.is_absolute() and path.exists() and ("/" in model or model.endswith(".gguf"))
    if not is_relative:
        return model
    seen = os.path.relpath(path, file.parent)
    return seen if "/" in seen else f"./{seen}"


def _free_port() -> int:
    for port in _PORTS:
        try:
            check_free("localhost", port, "the proxy")
        except StartupError:
            continue
        return port
    raise StartupError(f"none of the ports {_PORTS[0]} to {_PORTS[-1]} is free")


def _write(path: Path, text: str, *, force: bool) -> None:
    try:
        with path.open("w" if force else "x") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(_exists(str(path))) from None
    except OSError as e:
        raise StartupError(f"{path} cannot be written: {e.strerror}") from e
