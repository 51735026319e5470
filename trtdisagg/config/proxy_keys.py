"""What the file says to the proxy, beside how each role's servers are chosen."""

from __future__ import annotations

from typing import Annotated

import msgspec

from trtdisagg.config.key_types import Count, CountOrZero, Fraction, Seconds, Section


class ConditionalDisaggConfig(Section, frozen=True):
    max_local_prefill_length: CountOrZero = 0
    """A prompt of which so many tokens or fewer have to be computed, because it is short or most of it is in the
    server's cache, goes to a generation server alone. 0: none does."""


class TlsConfig(Section, frozen=True):
    cert_file: str
    """PEM file with the certificate, and those between it and a root."""
    key_file: str
    """PEM file with its key, not encrypted."""


class BreakerConfig(Section, frozen=True):
    num_failures: CountOrZero = 5
    """A server that has failed so many of its last `num_legs` gets no requests for a while; 0: never."""
    num_legs: Count = 10
    """How many of its last answers are looked at."""
    window_s: Seconds = 30.0
    """Failures that are older do not count."""
    open_s: Seconds = 5.0
    """For how long; then, when its `/health` is well, it is tried again, and cut off for twice as long if it fails."""
    max_open_s: Seconds = 60.0
    """Longest time that it is cut off."""


class ProxyConfig(Section, frozen=True):
    num_workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Processes that take requests at the one address, sharing load and limits; one that dies loses its own requests
    only. At the top level, as TensorRT-LLM has it, it means the same."""
    api_keys_file: str | None = None
    """File (0600) with the API keys that may ask, and their limits; `trtdisagg generate api-key NAME` prints an entry.
    Without it everybody may. With it, metrics and other pages for operators ask for the cluster's secret. A change of
    the file counts at once."""
    tls: TlsConfig | None = None
    """Clients come with https. A change of the files counts for connections that begin after it."""
    cors_allow_origins: list[str] = []
    """Origins (`https://app.example.org`) whose pages may ask from within a browser; `"*"`: all."""
    max_connections: Count = 8192
    """Connections of clients that are open at once, in each process; one more is answered 503 and closed. Fewer, where
    the process may open fewer than two files for each (`ulimit -Hn`)."""
    max_body_bytes: Count = 8 * 1024 * 1024
    """A larger request body is a 413."""
    max_in_flight: Count = 4096
    """Requests that one of the processes works on, those that wait and those that are answered; one more is a 429."""
    max_queue_size: Count = 1024
    """Of these, those that wait for a generation server to have room, or to come; one more is a 429. Room is a quarter
    more than the server's max_batch_size, so that its next batch is there already. As many as run at once, and nobody
    waits longer than an answer takes."""
    kv_overcommit: Annotated[float, msgspec.Meta(gt=0)] = 2.0
    """Room is also this many tokens of prompts and answers (max_tokens) for each token of the server's KV cache. More
    than 1, because most answers end early; much more where prompts share long beginnings, of which there is one copy.
    """
    first_token_timeout_s: Seconds = 300.0
    """From a request to its first token."""
    idle_timeout_s: Seconds = 120.0
    """Between two tokens of a stream; there is no limit on a stream that flows."""
    max_migrations: CountOrZero = 3
    """How often an answer that has its first token, and whose generation server dies or fails, goes on elsewhere."""
    retry_share: Fraction = 0.2
    """Share of all requests that may be tried again because a server answered with an error, beside 10 a second; of
    servers that are gone, each request is tried elsewhere."""
    breaker: BreakerConfig = BreakerConfig()
    """When a server that is there and fails gets no requests."""
    access_log: str | None = None
    """A line of JSON for each request (docs/observability.md), to this file, which is put aside at 64 MiB (`FILE.1` to
    `FILE.3`), or to `stderr`; without it, or with `"off"`, none is written."""


class OtlpConfig(Section, frozen=True):
    otlp_traces_endpoint: str | None = None
    """OpenTelemetry collector that traces of requests are sent to, `http://host:4318` or `grpc://host:4317`; with TLS
    `https`, `grpcs`. Takes `pip install 'trtdisagg[otel]'`."""


class ProcessingConfig(Section, frozen=True):
    num_workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Processes that work on texts (chat templates, tokens) for each process of the proxy, where a router looks at a
    prompt's tokens, and for /tokenize and /detokenize; started when they are first needed. Each works on a long text
    and a short one at once (of prompts of 32k tokens about ten a second), and keeps the tokenizers of all models: 0.1
    to 0.4 GB each."""
