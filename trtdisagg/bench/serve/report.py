"""What came of a load: the report that is printed, written as JSON, and read by `bench sweep` and `advise`.

Its keys are those of TensorRT-LLM's and vLLM's `benchmark_serving`, so that what reads theirs reads ours; what they
have no word for comes after them. Times are in milliseconds where the name says so, in seconds otherwise. What cannot
be known is null: times of nothing (TTFT of answers that were not streamed, anything where all failed), tokens that
nobody counts, GPUs that nobody named.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType


class ServeReport(msgspec.Struct, kw_only=True, frozen=True):
    """One run of a load."""

    date: str
    """`20261122-141500`, local time."""
    backend: str = "openai"
    model_id: str
    url: str
    num_prompts: int
    request_rate: float | str
    """Requests a second; `inf`: as fast as `max_concurrency` allows."""
    burstiness: float = 1.0
    """Shape of the gaps between arrivals: 1 is Poisson, larger ones more even."""
    max_concurrency: int | None = None
    num_gpus: int = 0
    """That the endpoint runs on; 0: on `num_cores` CPU cores, or nobody said."""
    num_cores: int = 0

    duration: float
    completed: int
    failed: int
    cancelled: int
    """By the client, on purpose (`--cancel-rate`); in none of the figures."""
    total_input_tokens: int | None
    total_output_tokens: int | None
    request_throughput: float
    output_throughput: float | None
    """Tokens a second; so are the next ones."""
    total_token_throughput: float | None
    user_throughput: float | None
    """Tokens a second of one answer, waiting for the first included: the mean over requests of tokens / E2EL."""
    interactivity: float | None
    """The same from its first token on: the mean over requests of 1 / TPOT."""
    output_throughput_per_gpu: float | None = None
    output_throughput_per_core: float | None = None
    goodput: dict[str, float] = {}
    """The targets that a good request keeps, in ms: `{"ttft": 500, "tpot": 30}`."""
    request_goodput: float | None = None
    """Good requests a second; None: no targets were given."""

    mean_ttft_ms: float | None
    median_ttft_ms: float | None
    std_ttft_ms: float | None
    p50_ttft_ms: float | None
    p90_ttft_ms: float | None
    p99_ttft_ms: float | None
    mean_tpot_ms: float | None
    median_tpot_ms: float | None
    std_tpot_ms: float | None
    p50_tpot_ms: float | None
    p90_tpot_ms: float | None
    p99_tpot_ms: float | None
    mean_itl_ms: float | None
    median_itl_ms: float | None
    std_itl_ms: float | None
    p50_itl_ms: float | None
    p90_itl_ms: float | None
    p99_itl_ms: float | None
    mean_e2el_ms: float | None
    median_e2el_ms: float | None
    std_e2el_ms: float | None
    p50_e2el_ms: float | None
    p90_e2el_ms: float | None
    p99_e2el_ms: float | None

    errors: dict[str, int] = {}
    """By kind: `HTTP 429`, `timeout`, `connection refused`, ..."""
    client_busy: float = 0.0
    """Share of the time that the load client's own core was busy."""
    client_late_ms: float = 0.0
    """99th percentile of how late it looked at what came: times may be off by as much."""
    is_client_bound: bool = False
    """The client could not keep up, so these are its figures rather than the server's."""
    warnings: list[str] = []
    """What to know before these figures are compared with others."""

    input_lens: list[int | None] | UnsetType = UNSET
    """From here on with `--save-detailed` only: a value for each request, in the order in which they were sent; times
    in seconds (see details.py)."""
    output_lens: list[int | None] | UnsetType = UNSET
    start_times: list[float] | UnsetType = UNSET
    """Behind the first."""
    ttfts: list[float | None] | UnsetType = UNSET
    itls: list[list[float]] | UnsetType = UNSET
    e2els: list[float] | UnsetType = UNSET
    outcomes: list[str] | UnsetType = UNSET
    """`completed`, `cancelled`, or the kind of error."""
