"""What the measuring commands have in common: words with commas between, and a report that is written whole."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from trtdisagg.errors import ConfigError

W = TypeVar("W", bound=str)


def some(known: tuple[W, ...], words: str, what: str) -> tuple[W, ...]:
    wanted = words.split(",")
    if unknown := [word for word in wanted if word not in known]:
        raise click.UsageError(f"there is no {what} {unknown[0]!r}; there are {', '.join(known)}")
    return tuple(name for name in known if name in wanted)


@contextlib.contextmanager
def writing(file: Path | None, option: str = "--json") -> Iterator[Callable[[msgspec.Struct], None]]:
    """Whether the file can be written is known before anything is measured; it is replaced when there is a report.

    :raises ConfigError: when it cannot.
    """
    if file is None:
        yield lambda _: None
        return
    with told(file, option):
        descriptor, name = tempfile.mkstemp(dir=file.absolute().parent, prefix=f".{file.name}.")
    temporary = Path(name)

    def write(report: msgspec.Struct) -> None:
        with told(file, option):
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
            temporary.chmod(0o644)
            temporary.replace(file)

    os.close(descriptor)
    try:
        yield write
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def told(file: Path, option: str) -> Iterator[None]:
    """
    :raises ConfigError: in place of an OSError, where the file is written.
    """
    try:
        yield
    except OSError as e:
        raise ConfigError(f"{option} {file} cannot be written: {e.strerror or e}") from e
