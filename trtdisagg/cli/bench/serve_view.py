"""The report of a load as tables; the words are those that people know from `benchmark_serving`."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trtdisagg.bench.serve.report import ServeReport

_TIMES = {"ttft": "TTFT [ms]", "tpot": "TPOT [ms]", "itl": "ITL [ms]", "e2el": "E2EL [ms]"}
_FIGURES = ("mean", "p50", "p90", "p99")


def bench_serve_view(report: ServeReport) -> RenderableType:
    """What was asked and answered, how fast, and what failed."""
    return Group(_counts(report), Text(), _times(report), *_errors(report))


def _counts(report: ServeReport) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    for words, value in _rows(report):
        table.add_row(Text(words), value)
    return table


def _rows(report: ServeReport) -> Iterator[tuple[str, str]]:
    yield "Total requests", f"{report.num_prompts:,}"
    yield "Successful requests", f"{report.completed:,}"
    yield "Failed requests", f"{report.failed:,}"
    if report.cancelled:
        yield "Cancelled requests", f"{report.cancelled:,}"
    yield "Benchmark duration (s)", f"{report.duration:.2f}"
    yield "Total input tokens", _figure(report.total_input_tokens, "{:,}")
    yield "Total generated tokens", _figure(report.total_output_tokens, "{:,}")
    yield "Request throughput (req/s)", _figure(report.request_throughput)
    if report.request_goodput is not None:
        targets = " ".join(f"{name}:{ms:g}" for name, ms in report.goodput.items())
        yield f"Request goodput (req/s), {targets}", _figure(report.request_goodput)
    yield "Output token throughput (tok/s)", _figure(report.output_throughput)
    yield "Total token throughput (tok/s)", _figure(report.total_token_throughput)
    yield "User throughput (tok/s)", _figure(report.user_throughput)
    yield "Interactivity, 1 / TPOT (tok/s)", _figure(report.interactivity)
    if report.output_throughput_per_gpu is not None:
        yield f"Output throughput per GPU (tok/s), {report.num_gpus} GPUs", _figure(report.output_throughput_per_gpu)
    if report.output_throughput_per_core is not None:
        yield (
            f"Output throughput per core (tok/s), {report.num_cores} cores",
            _figure(report.output_throughput_per_core),
        )


def _times(report: ServeReport) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for figure in _FIGURES:
        table.add_column(figure, justify="right")
    for name, words in _TIMES.items():
        table.add_row(Text(words), *(_figure(getattr(report, f"{figure}_{name}_ms")) for figure in _FIGURES))
    return table


def _errors(report: ServeReport) -> Iterator[RenderableType]:
    if not report.errors:
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for kind, count in sorted(report.errors.items(), key=lambda item: -item[1]):
        table.add_row(Text(kind, "red"), Text(f"{count:,}", justify="right"))
    yield Text()
    yield table


def _figure(value: float | None, form: str = "{:,.2f}") -> str:
    return "-" if value is None else form.format(value)
