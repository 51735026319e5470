"""What the proxy knows of caches, and how the reading of prompts goes, for Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from trtdisagg.proxy.index.index import Index
from trtdisagg.proxy.texts.texts import Texts

_LABELS = ["server", "role", "model"]


class CacheGauges:
    """Of servers whose caches a router looks at, and of prompts that are read for it."""

    def __init__(self, index: Index, texts: Texts) -> None:
        self._index = index
        self._texts = texts

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        known = GaugeMetricFamily(
            "trtdisagg_proxy_server_cache_known",
            "1: what it has in its cache is known; 0: load decides",
            labels=_LABELS,
        )
        blocks = GaugeMetricFamily("trtdisagg_proxy_server_cache_blocks", "Blocks it says it has", labels=_LABELS)
        silent = GaugeMetricFamily(
            "trtdisagg_proxy_server_cache_silent_seconds", "Since it said something of its cache", labels=_LABELS
        )
        lost = CounterMetricFamily(
            "trtdisagg_proxy_server_cache_lost", "Times that what was known had to be forgotten", labels=_LABELS
        )
        for followed in self._index.followed():
            values = [followed.member.name, followed.member.role, followed.member.model]
            known.add_metric(values, float(followed.state == "following"))
            blocks.add_metric(values, followed.num_blocks)
            silent.add_metric(values, followed.silent_s)
            lost.add_metric(values, followed.num_lost)
        yield from (known, blocks, silent, lost)
        read = CounterMetricFamily(
            "trtdisagg_proxy_prompts_read",
            "Prompts made into tokens for routing, and those routed without",
            labels=["outcome"],
        )
        read.add_metric(["read"], self._texts.num_read)
        read.add_metric(["unread"], self._texts.num_unread)
        yield read
        yield GaugeMetricFamily(
            "trtdisagg_proxy_texts_waiting", "Texts that wait to be read", value=self._texts.num_waiting
        )
