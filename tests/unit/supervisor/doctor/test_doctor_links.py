"""What is said of a probe's lines."""

from __future__ import annotations

import pytest
from helpers.plans import cluster_file, plan_of

from trtdisagg.config.server_keys import CacheTransceiverConfig, ServerSection
from trtdisagg.protocol.control import Link
from trtdisagg.protocol.probe import Library, LinkRate, MemoryRate, ProbeLine, Rate, decode_probe_line
from trtdisagg.supervisor.doctor import Finding, Probed, examine_probe, examine_running
from trtdisagg.supervisor.plan import Plan

_LIBRARIES: list[ProbeLine] = [Library(name="torch", version="2.9"), Library(name="nixl", version="1.5")]


def rates(gb_s: float) -> list[Rate]:
    return [Rate(num_bytes=n, seconds=n / gb_s / 1e9) for n in (1 << 20, 64 << 20)]


def probed(*lines: ProbeLine, error: str | None = None) -> list[Probed]:
    return [Probed(lines=[*_LIBRARIES, *lines], transports=["local", "nixl"], error=error)]


def link(name: str, gb_s: float) -> LinkRate:
    return LinkRate(transport=name, device="cpu", rates=rates(gb_s))


MEMORY = MemoryRate(device="cpu", rates=rates(10))


def plan(backend: str) -> Plan:
    section = ServerSection(cache_transceiver_config=CacheTransceiverConfig(backend=backend))  # type: ignore[arg-type]
    return plan_of(cluster_file(context_servers=section, generation_servers=section))


def severities(findings: list[Finding]) -> dict[str, str]:
    return {finding.topic: finding.severity for finding in findings if finding.severity != "ok"}


def test_all_is_well() -> None:
    findings = examine_probe(None, probed(MEMORY, link("local", 6), link("nixl", 4)))
    assert severities(findings) == {}
    assert findings[-1].found == "1.0 MiB in 0.26 ms, 64 MiB at 4.0 GB/s between two processes"


def test_a_slow_link_is_told_against_a_plain_copy() -> None:
    findings = examine_probe(None, probed(MEMORY, link("local", 6), link("nixl", 0.5)))
    assert severities(findings) == {"link nixl": "warning"}
    assert findings[-1].needs == "a plain copy is 20 times as fast"
    assert "UCX_TLS" in findings[-1].remedy


@pytest.mark.parametrize(("backend", "severity"), [("NIXL", "error"), ("DEFAULT", "error"), ("LOCAL", "warning")])
def test_a_link_that_does_not_work_is_an_error_for_who_uses_it(backend: str, severity: str) -> None:
    broken = LinkRate(transport="nixl", device="cpu", error="NIXL_ERR_BACKEND")
    findings = examine_probe(plan(backend), probed(MEMORY, link("local", 6), broken))
    assert severities(findings) == {"link nixl": severity}
    assert findings[-1].found == "NIXL_ERR_BACKEND"


def test_a_probe_that_hangs_names_what_is_not_known() -> None:
    findings = examine_probe(plan("DEFAULT"), probed(MEMORY, link("local", 6), error="it did not end within 60 s"))
    assert severities(findings) == {"link": "error"}
    assert findings[-1].found == "the probe found nothing out about nixl: it did not end within 60 s"


def test_libraries_that_do_not_load() -> None:
    lines: list[ProbeLine] = [Library(name="torch", error="no libc++"), Library(name="kernels", error="No module")]
    findings = examine_probe(None, [Probed(lines=lines, transports=["local"], error="it ended with 1")])
    assert severities(findings) == {"torch": "error", "kernels": "warning"}
    assert findings[0].found == "not installed: does not load (no libc++)"


def test_each_pair_of_devices_has_its_rate() -> None:
    lines: list[ProbeLine] = [*_LIBRARIES, MEMORY]
    trials = [
        Probed(lines=[*lines, link("nixl", gb_s)], transports=["nixl"], pairs=pairs)
        for gb_s, pairs in [(6, ["a -> b"]), (0.5, [f"a -> {i}" for i in range(5)])]
    ]
    findings = examine_probe(None, trials)
    assert [f.topic for f in findings] == ["torch", "nixl", "memory rate", "link nixl", "link nixl"]
    assert findings[-2].found.endswith("between two processes (a -> b)")
    assert findings[-1].found.endswith("(a -> 0, a -> 1, a -> 2 and 2 more alike)")
    assert findings[-1].severity == "warning"


def test_links_of_a_cluster_that_runs() -> None:
    pair = {"context": "context-0", "generation": "generation-0"}
    links = [
        Link(**pair, is_open=False),
        Link(**pair, is_open=True, error="layouts differ"),
        Link(**pair, is_open=True, transport="local", direction="pull", gb_s=9.0, latency_us=40.0),
        Link(**pair, is_open=True, transport="ucx", direction="push", gb_s=0.5, latency_us=40.0),
    ]
    findings = list(examine_running(links, probed(MEMORY)))
    assert [f.severity for f in findings] == ["ok", "warning", "ok", "warning"]
    assert findings[1].found == "context-0 -> generation-0: layouts differ"
    assert findings[2].found == "context-0 -> generation-0: local, pull, 9.0 GB/s, 40 us"
    assert "20 times as fast" in findings[3].needs
    assert [f.severity for f in examine_running(links)][3] == "ok", "there is nothing to measure it against"


def test_lines_are_read_as_they_are_written() -> None:
    assert decode_probe_line(b'{"type":"link","transport":"nixl","device":"cpu","error":"x"}') == LinkRate(
        transport="nixl", device="cpu", error="x"
    )
