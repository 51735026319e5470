"""The folder of a sweep. What is in it is never written over, except records of what is tried again.

sweep.json                    the Sweep, as it was begun
VARIANT/cluster.yaml          its cluster file: runs as it stands, from anywhere
VARIANT/up.log                what its cluster and servers said
VARIANT/run.json              Ran             VARIANT/failure.json    Failure: why it did not run, or ended
VARIANT/c008/report.json      ServeReport: there when the cell is done, and whole
VARIANT/c008/failure.json     Failure         VARIANT/c008/serve.log  what the load client said
*.png, report.html            made of all that, as often as somebody asks
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from trtdisagg.bench.serve.report import ServeReport
from trtdisagg.bench.sweep.records import Failure, Ran, now
from trtdisagg.bench.sweep.sweep import Cell, Sweep
from trtdisagg.errors import ConfigError, StartupError
from trtdisagg.files import write_whole

_SWEEP = "sweep.json"
_FAILURE = "failure.json"
R = TypeVar("R", bound=msgspec.Struct)


class Folder:
    """One sweep on disk.

    :ivar sweep: what it is of.
    """

    def __init__(self, path: Path, sweep: Sweep) -> None:
        self.path = path
        self.sweep = sweep

    @staticmethod
    def create(path: Path, sweep: Sweep, cluster_files: Mapping[str, str]) -> Folder:
        """
        :param cluster_files: by variant, the text of each that is ours to start.
        :raises ConfigError: the folder is there already.
        :raises StartupError: it cannot be written.
        """
        folder = Folder(path, sweep)
        try:
            path.mkdir(parents=True)
            for variant in sweep.variants:
                folder.of(variant.name).mkdir()
                if variant.name in cluster_files:
                    folder.cluster_file(variant.name).write_text(cluster_files[variant.name])
            write(path / _SWEEP, sweep)
        except FileExistsError:
            way_out = f"--resume {path} goes on with the sweep in it" if (path / _SWEEP).exists() else "name another"
            raise ConfigError(f"{path} is there already; {way_out}") from None
        except OSError as e:
            raise StartupError(f"{path} cannot be written: {e.strerror}") from e
        return folder

    @staticmethod
    def open(path: Path) -> Folder:
        """
        :raises ConfigError: there is no sweep in it.
        """
        sweep = read(path / _SWEEP, Sweep)
        if sweep is None:
            raise ConfigError(f"{path} has no {_SWEEP}: it is not the folder of a sweep")
        return Folder(path, sweep)

    def of(self, variant: str) -> Path:
        return self.path / variant

    def cluster_file(self, variant: str) -> Path:
        return self.of(variant) / "cluster.yaml"

    def cell(self, cell: Cell) -> Path:
        return self.of(cell.variant) / cell.folder

    def report_file(self, cell: Cell) -> Path:
        return self.cell(cell) / "report.json"

    def report(self, cell: Cell) -> ServeReport | None:
        """None: it is not done."""
        return read(self.report_file(cell), ServeReport)

    def missing(self, variant: str) -> list[Cell]:
        """Cells that are not done."""
        return [cell for cell in self.sweep.cells(variant) if not self.report_file(cell).exists()]

    def ran(self, variant: str) -> Ran | None:
        return read(self.of(variant) / "run.json", Ran)

    def write_ran(self, variant: str, record: Ran) -> None:
        write(self.of(variant) / "run.json", record)

    def failure(self, of: str | Cell) -> Failure | None:
        return read(self._failure_file(of), Failure)

    def write_failure(self, of: str | Cell, reason: str | None) -> None:
        """:param reason: None: it is tried again, or went well."""
        if reason is None:
            self._failure_file(of).unlink(missing_ok=True)
        else:
            write(self._failure_file(of), Failure(at=now(), reason=reason))

    def _failure_file(self, of: str | Cell) -> Path:
        return (self.of(of) if isinstance(of, str) else self.cell(of)) / _FAILURE

    @contextlib.contextmanager
    def held(self, variant: str) -> Iterator[None]:
        """Keep other sweeps of the same folder from a variant.

        :raises StartupError: one works on it.
        """
        with (self.of(variant) / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise StartupError(f"{self.of(variant)}: another sweep works on it") from None
            yield


def write(file: Path, record: msgspec.Struct) -> None:
    """Whole or not at all."""
    write_whole(file, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n", mode=0o666)


def read(file: Path, kind: type[R]) -> R | None:
    """
    :returns: None: there is no such file.
    :raises ConfigError: it is something else.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as e:
        raise ConfigError(f"{file}: cannot be read: {e.strerror}") from None
    except msgspec.DecodeError as e:
        raise ConfigError(f"{file}: {e}") from None
