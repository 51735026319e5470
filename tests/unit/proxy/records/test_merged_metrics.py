"""Pages of several processes as one."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from trtdisagg.proxy.records.kept_pages import MAX_GONE, KeptPages
from trtdisagg.proxy.records.merged_metrics import AsMetrics, Family, added, decode, encode, families


def page(requests: float, up: float = 1, bucket: float = 0) -> list[Family]:
    counter = CounterMetricFamily("c", "text", labels=["model"])
    counter.add_metric(["m"], requests)
    histogram = HistogramMetricFamily("h_seconds", "text", labels=[])
    histogram.add_metric([], [("1.0", bucket), ("+Inf", bucket + 1)], 2.5)
    is_up = GaugeMetricFamily("trtdisagg_proxy_server_up", "text", labels=["server"])
    is_up.add_metric(["s"], up)
    return families([counter, histogram, is_up, GaugeMetricFamily("in_flight", "text", value=requests)])


def text(families_: list[Family]) -> list[str]:
    return [line for line in generate_latest(AsMetrics(families_)).decode().splitlines() if not line.startswith("#")]


def test_counters_histograms_and_gauges_are_added_but_not_whether_a_server_is_up() -> None:
    total = added([page(2, bucket=1), decode(encode(page(3, up=0, bucket=4)))])
    assert text(total) == [
        'c_total{model="m"} 5.0',
        'h_seconds_bucket{le="1.0"} 5.0',
        'h_seconds_bucket{le="+Inf"} 7.0',
        "h_seconds_count 7.0",
        "h_seconds_sum 5.0",
        'trtdisagg_proxy_server_up{server="s"} 0.0',
        "in_flight 5.0",
    ]


def test_labels_that_only_one_has_are_kept() -> None:
    other = CounterMetricFamily("c", "text", labels=["model"])
    other.add_metric(["n"], 7)
    assert text(added([page(2), families([other])]))[:2] == ['c_total{model="m"} 2.0', 'c_total{model="n"} 7.0']


def test_one_that_has_ended_still_counts_and_has_nothing_in_flight(tmp_path: Path) -> None:
    ended, living = (KeptPages(str(tmp_path / f"{name}.sock")) for name in ("m-0.1", "m-1.1"))
    ended.keep(page(4))
    assert living.of_gone([str(tmp_path / "m-0.1.sock")]) == []
    (left,) = living.of_gone([])
    assert text(left)[0] == 'c_total{model="m"} 4.0'
    assert not any("in_flight" in line for line in text(left))
    assert living.of_silent([str(tmp_path / "m-0.1.sock"), str(tmp_path / "none.sock")]) == [left]


def test_many_that_have_ended_become_one_page(tmp_path: Path) -> None:
    for i in range(2 * MAX_GONE):
        KeptPages(str(tmp_path / f"m-0.{i}.sock")).keep(page(1))
        mine = KeptPages(str(tmp_path / "m-1.1.sock"))
        assert text(added(mine.of_gone([])))[0] == f'c_total{{model="m"}} {i + 1}.0'
    assert len(list(tmp_path.glob("*.page"))) <= MAX_GONE + 1
