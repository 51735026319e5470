"""A measurement as a table."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from trtdisagg.cli.values import latency
from trtdisagg.protocol.bench import WORKLOADS, Limits, Report, Result, Workload

_NAMES: dict[Workload, str] = {
    "w1": "w1 one stream, decode",
    "w2": "w2 many at once, output",
    "w3": "w3 prefill",
}


def bench_view(report: Report) -> RenderableType:
    """What was reached, and of what."""
    return Group(_head(report), _table(report), _limits(report.limits))


def _head(report: Report) -> Text:
    measured = report.measured
    words = [measured.model, measured.dtype, measured.device, f"{report.num_threads} threads"]
    if measured.quantization != "none":
        words.insert(2, measured.quantization)
    if measured.is_disaggregated:
        words.append("context and generation apart")
    words += [f"{report.weight_bytes / 1e6:.0f} MB of weights a token", f"loaded in {report.load_s:.1f} s"]
    return Text(", ".join(words))


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("workload")
    for name in ("requests", "in", "out", "tok/s", "median", "limit", "reached", "first token"):
        table.add_column(name, justify="right")
    results: dict[Workload, Result | None] = {"w1": report.w1, "w2": report.w2, "w3": report.w3}
    for workload in WORKLOADS:
        if result := results[workload]:
            table.add_row(_NAMES[workload], *_cells(result))
    return table


def _cells(result: Result) -> list[str]:
    counts = [str(result.num_requests), str(result.isl), str(result.osl)]
    speeds = [_tok_s(result.tok_s), _tok_s(result.median_tok_s), _tok_s(result.limit_tok_s)]
    return [*counts, *speeds, f"{result.fraction_of_limit:.0%}", latency(result.ttft_ms)]


def _tok_s(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _limits(limits: Limits) -> Text:
    words = [
        f"memory {limits.memory_gb_s:.1f} GB/s",
        f"matrix products float32 {limits.gemm_float32_gflop_s:.0f}, bfloat16 {limits.gemm_bfloat16_gflop_s:.0f}",
    ]
    if limits.fma_gflop_s is not None:
        words.append(f"multiply-add {limits.fma_gflop_s:.0f} GFLOP/s")
    return Text("limits: " + ", ".join(words), "dim")
