"""The series of a server, made from its counters."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from trtdisagg.engine.http.metrics import Metrics
from trtdisagg.protocol.latencies import TRANSFER_BOUNDS_S, LatencyCounts
from trtdisagg.protocol.stats import Stats


def samples(stats: Stats) -> dict[str, float]:
    """Without labels but the bucket's."""
    text = Metrics(model="m", server="s").render(stats, "generation").decode()
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {s.name + (f"<{s.labels['le']}" if "le" in s.labels else ""): s.value for s in found}


def test_transfers() -> None:
    counts = LatencyCounts(TRANSFER_BOUNDS_S)
    for seconds in (0.00005, 0.003, 0.003, 100.0):
        counts.observe(seconds)
    found = samples(
        Stats(
            num_transfers_total=4,
            num_transfers_running=1,
            num_transfer_failures_total=2,
            num_transfer_bytes_total=1000,
            num_transfer_descriptors_total=12,
            transfer_seconds_total=100.00605,
            transfer_seconds_counts=counts.counts,
            num_expired_leases_total=5,
            num_unread_holds_total=6,
            num_held_blocks=7,
            num_quarantined_blocks=8,
        )
    )
    name = "trtdisagg_kv_transfer_seconds"
    assert [found[f"{name}_bucket<{le}"] for le in ("0.0001", "0.002", "0.005", "60.0", "+Inf")] == [1, 1, 3, 3, 4]
    assert (found[f"{name}_count"], found[f"{name}_sum"]) == (4, 100.00605)
    expected = {
        "trtdisagg_kv_transfers_total": 4,
        "trtdisagg_kv_transfers_running": 1,
        "trtdisagg_kv_transfer_failures_total": 2,
        "trtdisagg_kv_transfer_bytes_total": 1000,
        "trtdisagg_kv_transfer_descriptors_total": 12,
        "trtdisagg_kv_leases_expired_total": 5,
        "trtdisagg_kv_holds_unread_total": 6,
        "trtdisagg_kv_blocks_held": 7,
        "trtdisagg_kv_blocks_quarantined": 8,
    }
    assert {key: found[key] for key in expected} == expected


def test_a_server_that_has_received_nothing_says_so() -> None:
    found = samples(Stats())
    assert found["trtdisagg_kv_transfer_seconds_bucket<+Inf"] == 0
    assert found["trtdisagg_kv_transfer_seconds_count"] == 0
