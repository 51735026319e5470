"""What the dashboard shows: its panels, and the queries behind them.

The names of the series are those of proxy/metrics.py, proxy/gauges.py and engine/http/metrics.py; a test compares them.
"""

from __future__ import annotations

from typing import NamedTuple

_MODEL = '{model=~"$model"}'


class Query(NamedTuple):
    expression: str
    legend: str
    """{{label}} stands for a label's value."""


class Panel(NamedTuple):
    title: str
    unit: str
    """Grafana's name of it."""
    queries: list[Query]


class Row(NamedTuple):
    title: str
    panels: list[Panel]


def _rate(series: str, by: str) -> str:
    return f"sum by ({by}) (rate({series}{_MODEL}[$__rate_interval]))"


def _now(series: str, by: str) -> str:
    return f"sum by ({by}) ({series}{_MODEL})"


def _percentile(share: float, series: str, by: str) -> str:
    return f"histogram_quantile({share}, {_rate(f'{series}_bucket', f'{by}, le')})"


def _percentiles(series: str, by: str) -> list[Query]:
    return [Query(_percentile(p / 100, series, by), f"{{{{{by}}}}} p{p}") for p in (50, 95, 99)]


CLIENTS = Row(
    "What clients see (the proxy)",
    [
        Panel("Answers", "reqps", [Query(_rate("trtdisagg_proxy_requests_total", "status"), "{{status}}")]),
        Panel("Time to first token", "s", _percentiles("trtdisagg_proxy_time_to_first_token_seconds", "model")),
        Panel("Time to the last byte", "s", _percentiles("trtdisagg_proxy_request_duration_seconds", "route")),
        Panel(
            "Requests in flight",
            "short",
            [
                Query("sum(trtdisagg_proxy_requests_in_flight)", "at the proxy"),
                Query(_now("trtdisagg_proxy_server_requests_in_flight", "server"), "{{server}}"),
            ],
        ),
        Panel("Servers routed to", "short", [Query(_now("trtdisagg_proxy_server_up", "role"), "{{role}}")]),
        Panel("Errors", "reqps", [Query(_rate("trtdisagg_proxy_request_errors_total", "kind"), "{{kind}}")]),
        Panel(
            "Answers by API key",
            "reqps",
            [
                Query(
                    "sum by (client, status) (rate(trtdisagg_proxy_client_requests_total[$__rate_interval]))",
                    "{{client}} {{status}}",
                )
            ],
        ),
        Panel(
            "Events of streams a second",
            "short",
            [Query(_rate("trtdisagg_proxy_stream_events_total", "model"), "{{model}}")],
        ),
    ],
)

ROUTING = Row(
    "The way of a request (the proxy)",
    [
        Panel("Time until servers are chosen", "s", _percentiles("trtdisagg_proxy_queue_seconds", "model")),
        Panel(
            "Requests that wait for a server", "short", [Query("sum(trtdisagg_proxy_requests_waiting)", "at the proxy")]
        ),
        Panel("Ways", "reqps", [Query(_rate("trtdisagg_proxy_request_paths_total", "path"), "{{path}}")]),
        Panel("Time to first byte", "s", _percentiles("trtdisagg_proxy_leg_first_byte_seconds", "server")),
        Panel("Time of a handover", "s", _percentiles("trtdisagg_proxy_handover_seconds", "server")),
        Panel("Time per event", "s", _percentiles("trtdisagg_proxy_time_per_output_token_seconds", "server")),
        Panel("Time of an answer", "s", _percentiles("trtdisagg_proxy_leg_duration_seconds", "server")),
        Panel("Asked, by outcome", "reqps", [Query(_rate("trtdisagg_proxy_legs_total", "outcome"), "{{outcome}}")]),
        Panel(
            "Recovery",
            "ops",
            [
                Query(_rate("trtdisagg_proxy_retries_total", "model"), "asked again elsewhere: {{model}}"),
                Query(_rate("trtdisagg_proxy_migrations_total", "model"), "went on elsewhere: {{model}}"),
                Query(_rate("trtdisagg_proxy_broken_streams_total", "model"), "broken streams: {{model}}"),
                Query(_rate("trtdisagg_proxy_replayed_tokens_total", "server"), "tokens replayed: {{server}}"),
            ],
        ),
        Panel(
            "Circuits open",
            "short",
            [Query(_now("trtdisagg_proxy_server_circuit_open", "server"), "{{server}}")],
        ),
        Panel(
            "Blocks known to be cached",
            "short",
            [
                Query(_now("trtdisagg_proxy_server_cache_blocks", "server"), "{{server}}"),
                Query(_now("trtdisagg_proxy_server_cache_known", "server"), "known: {{server}}"),
            ],
        ),
        Panel(
            "Caches lost sight of",
            "ops",
            [Query(_rate("trtdisagg_proxy_server_cache_lost_total", "server"), "{{server}}")],
        ),
        Panel(
            "Silence of caches",
            "s",
            [Query(_now("trtdisagg_proxy_server_cache_silent_seconds", "server"), "{{server}}")],
        ),
        Panel(
            "Prompts read for routing",
            "reqps",
            [
                Query("sum by (outcome) (rate(trtdisagg_proxy_prompts_read_total[$__rate_interval]))", "{{outcome}}"),
                Query("sum(trtdisagg_proxy_texts_waiting)", "waiting"),
            ],
        ),
    ],
)

SERVERS = Row(
    "The servers",
    [
        Panel("Prompt tokens a second", "short", [Query(_rate("trtllm_prompt_tokens_total", "server"), "{{server}}")]),
        Panel(
            "Generated tokens a second",
            "short",
            [Query(_rate("trtllm_generation_tokens_total", "server"), "{{server}}")],
        ),
        Panel("Time per output token", "s", _percentiles("trtllm_time_per_output_token_seconds", "server")),
        Panel("Time until the first step", "s", _percentiles("trtllm_request_queue_time_seconds", "server")),
        Panel("Requests running", "short", [Query(_now("trtllm_num_requests_running", "server"), "{{server}}")]),
        Panel("Requests waiting", "short", [Query(_now("trtllm_num_requests_waiting", "server"), "{{server}}")]),
        Panel("KV cache in use", "percentunit", [Query(_now("trtllm_kv_cache_utilization", "server"), "{{server}}")]),
        Panel("Servers by role", "short", [Query(_now("trtdisagg_server_role", "role"), "{{role}}")]),
        Panel("Steps a second", "short", [Query(_rate("trtdisagg_steps_total", "server"), "{{server}}")]),
        Panel("Requests failed", "reqps", [Query(_rate("trtdisagg_requests_failed_total", "server"), "{{server}}")]),
        Panel(
            "Ends of answers",
            "reqps",
            [Query(_rate("trtllm_request_success_total", "finished_reason"), "{{finished_reason}}")],
        ),
    ],
)

HANDOVERS = Row(
    "Handovers",
    [
        Panel(
            "Speed of a transfer",
            "Bps",
            [
                Query(
                    _rate("trtdisagg_kv_transfer_bytes_total", "server")
                    + " / "
                    + _rate("trtdisagg_kv_transfer_seconds_sum", "server"),
                    "{{server}}",
                )
            ],
        ),
        Panel("Time of a transfer", "s", _percentiles("trtdisagg_kv_transfer_seconds", "server")),
        Panel(
            "Transfers",
            "ops",
            [
                Query(_rate("trtdisagg_kv_transfers_total", "server"), "{{server}}"),
                Query(_rate("trtdisagg_kv_transfer_failures_total", "server"), "failed: {{server}}"),
            ],
        ),
        Panel("Transfers running", "short", [Query(_now("trtdisagg_kv_transfers_running", "server"), "{{server}}")]),
        Panel(
            "Pieces of a transfer",
            "short",
            [
                Query(
                    _rate("trtdisagg_kv_transfer_descriptors_total", "server")
                    + " / "
                    + _rate("trtdisagg_kv_transfer_seconds_count", "server"),
                    "{{server}}",
                )
            ],
        ),
        Panel(
            "Blocks held for a handover",
            "short",
            [
                Query(_now("trtdisagg_kv_blocks_held", "server"), "{{server}}"),
                Query(_now("trtdisagg_kv_blocks_quarantined", "server"), "quarantined: {{server}}"),
            ],
        ),
        Panel(
            "Handovers that came to nothing",
            "ops",
            [
                Query(_rate("trtdisagg_kv_leases_expired_total", "server"), "nobody came: {{server}}"),
                Query(_rate("trtdisagg_kv_holds_unread_total", "server"), "given back unread: {{server}}"),
            ],
        ),
    ],
)

ROWS = [CLIENTS, ROUTING, SERVERS, HANDOVERS]
