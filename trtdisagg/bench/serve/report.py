"""What came of a load: the report that is printed, written as JSON, and read by `bench sweep` and `advise`.

Its keys are those of TensorRT-LLM's and vLLM's `benchmark_serving`, so that what reads theirs reads ours; what they
have no word for comes after them. Times are in milliseconds where the name says so, in seconds otherwise; a time
that no request has (of answers that were not streamed, or failed) is 0.
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
    total_input_tokens: int
    total_output_tokens: int
    request_throughput: float
    output_throughput: float
    """Tokens a second; so are the next ones."""
    total_token_throughput: float
    user_throughput: float
    """Tokens a second of one answer, waiting for the first included: the mean over requests of tokens / E2EL."""
    interactivity: float
    """The same from its first token on: the mean over requests of 1 / TPOT."""
    output_throughput_per_gpu: float | None = None
    output_throughput_per_core: float | None = None
    goodput: dict[str, float] = {}
    """The targets that a good request keeps, in ms: `{"ttft": 500, "tpot": 30}`."""
    request_goodput: float | None = None
    """Good requests a second; None: no targets were given."""

    mean_ttft_ms: float
    median_ttft_ms: float
    std_ttft_ms: float
    p50_ttft_ms: float
    p90_ttft_ms: float
    p99_ttft_ms: float
    mean_tpot_ms: float
    median_tpot_ms: float
    std_tpot_ms: float
    p50_tpot_ms: float
    p90_tpot_ms: float
    p99_tpot_ms: float
    mean_itl_ms: float
    median_itl_ms: float
    std_itl_ms: float
    p50_itl_ms: float
    p90_itl_ms: float
    p99_itl_ms: float
    mean_e2el_ms: float
    median_e2el_ms: float
    std_e2el_ms: float
    p50_e2el_ms: float
    p90_e2el_ms: float
    p99_e2el_ms: float

    errors: dict[str, int] = {}
    """By kind: `HTTP 429`, `timeout`, `connection refused`, ..."""
    client_busy: float = 0.0
    """Share of the time that the load client's own core was busy."""
    is_client_bound: bool = False
    """The client could not keep up, so these are its figures rather than the server's."""
    warnings: list[str] = []
    """What to know before these figures are compared with others."""

    input_lens: list[int] | UnsetType = UNSET
    """From here on with `--save-detailed` only: a value for each request, in the order in which they were sent; times
    in seconds (see details.py)."""
    output_lens: list[int] | UnsetType = UNSET
    start_times: list[float] | UnsetType = UNSET
    """Behind the first."""
    ttfts: list[float] | UnsetType = UNSET
    itls: list[list[float]] | UnsetType = UNSET
    e2els: list[float] | UnsetType = UNSET
    outcomes: list[str] | UnsetType = UNSET
    """`completed`, `cancelled`, or the kind of error."""
