"""What the folders of sweeps have to tell, as pictures and tables need it. Reads files; changes nothing."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Literal, TypeVar

import msgspec

from trtdisagg.bench.serve.report import ServeReport
from trtdisagg.bench.sweep.folder import Folder
from trtdisagg.bench.sweep.front import front
from trtdisagg.bench.sweep.records import Ran
from trtdisagg.bench.sweep.sweep import Cell

Kind = Literal["concurrency", "rate"]
Unit = Literal["GPU", "core", "cluster"]
"""What throughput is divided by."""
T = TypeVar("T")


class Point(msgspec.Struct, frozen=True):
    """One load on one variant, run once or several times.

    :ivar variant: as it is shown.
    """

    variant: str
    kind: Kind
    value: float
    reports: list[ServeReport]

    def figure(self, name: str) -> float | None:
        """The median of all runs that have it; None: none has."""
        found = [value for report in self.reports if (value := getattr(report, name)) is not None]
        return statistics.median(found) if found else None

    @property
    def label(self) -> str:
        return f"{self.value:g}" if self.kind == "concurrency" else f"{self.value:g}/s"

    @property
    def words(self) -> str:
        return Cell(self.variant, self.kind, self.value).words


class Series(msgspec.Struct, kw_only=True, frozen=True):
    """One variant, its points by rising load."""

    label: str
    overrides: list[str]
    cluster_file: str | None
    ran: Ran | None
    points: list[Point]
    failures: list[tuple[str, str]]
    """What, and why; of cells that were not run yet as well."""

    def of(self, kind: Kind) -> list[Point]:
        return [point for point in self.points if point.kind == kind]


class Results(msgspec.Struct, kw_only=True, frozen=True):
    """All that is compared.

    :ivar unit: per what throughput is told: GPUs where all say how many they have, or else cores.
    :ivar goodput: the targets; none where sweeps differ in theirs, for then goodput cannot be compared.
    :ivar load: options of each run; none where sweeps differ in them.
    """

    title: str
    series: list[Series]
    unit: Unit
    goodput: dict[str, float]
    load: list[str]

    @property
    def points(self) -> list[Point]:
        return [point for series in self.series for point in series.points]

    @property
    def targets(self) -> str:
        """`TTFT 500 ms, TPOT 30 ms`"""
        return ", ".join(f"{name.upper()} {ms:g} ms" for name, ms in self.goodput.items())

    @property
    def has_repetitions(self) -> bool:
        return any(len(point.reports) > 1 for point in self.points)

    def per_unit(self, point: Point, figure: str = "output_throughput") -> float | None:
        value = point.figure(figure)
        return None if value is None else value / self.num_units(point)

    def num_units(self, point: Point) -> int:
        return _num_units(point.reports[0], self.unit) or 1

    def front(self) -> list[Point]:
        """The Pareto front over tok/s of a user and of a unit, the first rising."""
        there = [(point, place) for point in self.points if (place := self.place(point))]
        return [there[i][0] for i in front([place for _, place in there])]

    def place(self, point: Point) -> tuple[float, float] | None:
        """tok/s of a user and of a unit; None: it has no such figures, as where answers were not streamed."""
        of_user, of_unit = point.figure("interactivity"), self.per_unit(point)
        return None if of_user is None or of_unit is None else (of_user, of_unit)


def gather(folders: Sequence[Folder]) -> Results:
    names = Counter(variant.name for folder in folders for variant in folder.sweep.variants)
    series = [_series(folder, name, names) for folder in folders for name in _variants(folder)]
    reports = [report for one in series for point in one.points for report in point.reports]
    return Results(
        title=" and ".join(folder.path.resolve().name for folder in folders),
        series=series,
        unit=_unit(reports),
        goodput=_common([folder.sweep.goodput for folder in folders if folder.sweep.goodput]) or {},
        load=_common([folder.sweep.load for folder in folders]) or [],
    )


def _common(values: Sequence[T]) -> T | None:
    """What all are; None: they differ, or there are none."""
    return values[0] if values and all(value == values[0] for value in values) else None


def _variants(folder: Folder) -> list[str]:
    return [variant.name for variant in folder.sweep.variants]


def _series(folder: Folder, name: str, names: Counter[str]) -> Series:
    label = name if names[name] == 1 else f"{folder.path.resolve().name}/{name}"
    (variant,) = (v for v in folder.sweep.variants if v.name == name)
    file = folder.cluster_file(name)
    done: dict[tuple[Kind, float], list[ServeReport]] = {}
    failures = []
    whole = folder.failure(name)
    if whole:
        failures.append(("all that is missing", whole.reason))
    for cell in folder.sweep.cells(name):
        failed = folder.failure(cell)
        if report := folder.report(cell):
            done.setdefault((cell.kind, cell.value), []).append(report)
        elif failed or not whole:
            failures.append((f"{cell.folder}: {cell.words}", failed.reason if failed else "not run"))
    return Series(
        label=label,
        overrides=variant.overrides,
        cluster_file=file.read_text() if file.exists() else None,
        ran=folder.ran(name),
        points=[Point(label, kind, value, reports) for (kind, value), reports in sorted(done.items())],
        failures=failures,
    )


def _unit(reports: list[ServeReport]) -> Unit:
    units: tuple[Unit, ...] = ("GPU", "core")
    return next((unit for unit in units if reports and all(_num_units(r, unit) for r in reports)), "cluster")


def _num_units(report: ServeReport, unit: Unit) -> int:
    return {"GPU": report.num_gpus, "core": report.num_cores, "cluster": 1}[unit]
