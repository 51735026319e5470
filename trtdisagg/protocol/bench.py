"""What the measuring program of the engine half says: one of these a line, the report at last.

trtdisagg bench engine  ->  python -m trtdisagg.engine.measure  ->  lines of JSON
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec

from trtdisagg.protocol.spec import Dtype, Quantization

Workload = Literal["w1", "w2", "w3"]


class Load(NamedTuple):
    """The requests of a workload."""

    num_requests: int
    isl: int
    """Tokens of a prompt."""
    osl: int
    """Tokens of an answer."""
    at_once: bool
    """Or one after the other."""


LOADS: dict[Workload, Load] = {
    "w1": Load(1, 128, 128, at_once=True),
    "w2": Load(32, 128, 128, at_once=True),
    "w3": Load(8, 1024, 1, at_once=False),
}
WORKLOADS = tuple(LOADS)


class Measure(msgspec.Struct, kw_only=True, frozen=True):
    """What is to be measured."""

    model: str
    dtype: Dtype = "bfloat16"
    quantization: Quantization = "none"
    device: Literal["cpu", "cuda"] = "cpu"
    num_threads: int | None = None
    """None: one for each core."""
    workloads: tuple[Workload, ...] = WORKLOADS
    num_rounds: int = 3
    is_disaggregated: bool = False
    """A context and a generation executor, each with half of the cores, or a device of its own."""


class Limits(msgspec.Struct, kw_only=True, frozen=True):
    """What the machine can do at most, with the threads that the engine has: the best of what was measured."""

    memory_gb_s: float
    """Reading memory; on a device copying it, counted both ways."""
    gemm_float32_gflop_s: float
    """Square matrix products by torch."""
    gemm_bfloat16_gflop_s: float
    fma_gflop_s: float | None = None
    """float32 operations in registers only; None: not measured, as on a device."""


class Result(msgspec.Struct, kw_only=True, frozen=True):
    """One workload: of all rounds the best, since whatever else the machine does can only take from it."""

    tok_s: float
    """w1: tokens generated behind the first; w2: tokens generated, prefill included; w3: prompt tokens."""
    median_tok_s: float
    limit_tok_s: float
    """What the machine's limits allow for this model."""
    fraction_of_limit: float
    ttft_ms: float
    """From the request to its first token; of several requests the median."""
    num_requests: int
    isl: int
    """Tokens of a prompt."""
    osl: int
    """Tokens of an answer."""


class Report(msgspec.Struct, tag="report", kw_only=True, frozen=True, omit_defaults=True):
    """What `--json` writes."""

    version: str
    measured: Measure
    num_threads: int
    num_parameters: int
    weight_bytes: int
    """Read for each token that is generated alone."""
    load_s: float
    """From the model's name to an executor that can compute."""
    limits: Limits
    w1: Result | None = None
    w2: Result | None = None
    w3: Result | None = None


class Stage(msgspec.Struct, tag="stage", kw_only=True, frozen=True):
    """What is going on, for people."""

    words: str


class Failure(msgspec.Struct, tag="failure", kw_only=True, frozen=True):
    """Why there is no report."""

    message: str
    exit_code: int
