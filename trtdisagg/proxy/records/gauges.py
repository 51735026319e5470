"""What is true of this process at the moment, read when somebody asks.

With several workers the pages of all are added up, gauges like counters, but for those in `NOT_ADDED`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from trtdisagg.proxy.members.uses import Uses
from trtdisagg.proxy.path.admission import Admission
from trtdisagg.proxy.path.breaker import Breakers
from trtdisagg.proxy.records.records import Records
from trtdisagg.registry.members import Roster

NOT_ADDED: Mapping[str, Literal["min", "max"]] = {
    "trtdisagg_proxy_server_up": "min",
    "trtdisagg_proxy_server_circuit_open": "max",
    "trtdisagg_proxy_server_cache_known": "min",
    "trtdisagg_proxy_server_cache_blocks": "max",
    "trtdisagg_proxy_server_cache_silent_seconds": "max",
    "process_start_time_seconds": "min",
    "process_max_fds": "min",
    "python_info": "max",
}
"""Of the workers' values, the one that is told."""


class Gauges:
    """Who is in flight where, and who is up."""

    def __init__(self, records: Records, admission: Admission, uses: Uses, roster: Roster, breakers: Breakers) -> None:
        self._records = records
        self._admission = admission
        self._uses = uses
        self._roster = roster
        self._breakers = breakers

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        yield GaugeMetricFamily(
            "trtdisagg_proxy_requests_in_flight", "Requests not yet answered", value=self._records.num_in_flight
        )
        yield GaugeMetricFamily(
            "trtdisagg_proxy_requests_waiting",
            "Of these, such as wait for a server or for room on one",
            value=self._admission.num_waiting,
        )
        labels = ["server", "role", "model"]
        up = GaugeMetricFamily("trtdisagg_proxy_server_up", "1: requests are routed to it", labels=labels)
        in_flight = GaugeMetricFamily(
            "trtdisagg_proxy_server_requests_in_flight", "Requests that count on it", labels=labels
        )
        is_open = GaugeMetricFamily(
            "trtdisagg_proxy_server_circuit_open", "1: it failed again and again, and gets no requests", labels=labels
        )
        in_use = self._uses.in_use()
        for member in self._roster.members:
            values = [member.name, member.role, member.model]
            up.add_metric(values, float(self._roster.is_listed(member)))
            in_flight.add_metric(values, in_use.get(member.identity, 0))
            is_open.add_metric(values, float(self._breakers.state(member) == "open"))
        yield up
        yield in_flight
        yield is_open
