"""What the probe of the engine half says, as findings: what loads, and whether a link is fast enough. Pure.

How fast it should be is measured, not assumed: a plain copy on the same machine at the same moment moves each byte
once, as a transport within a host does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from trtdisagg.protocol.control import Link
from trtdisagg.protocol.probe import MAX_PIECE_BYTES, Library, LinkRate, MemoryRate, Rate
from trtdisagg.supervisor.doctor import needs, ucx
from trtdisagg.supervisor.doctor.finding import Finding, Severity, size_words
from trtdisagg.supervisor.doctor.probing import Probed
from trtdisagg.supervisor.plan import Plan

MIN_SHARE = {"local": 0.2, "nixl": 0.12, "ucx": 0.12, "mpi": 0.08}
"""Of the rate of a plain copy. Measured on one 2-core machine: local 0.57 to 0.9, NIXL 0.34 to 0.63, NIXL by TCP
0.08."""
EMPTY: Mapping[str, str] = MappingProxyType({})
_BUSY = "Other work may have the cores just now: try again, and see that servers have cores of their own"
_BY_TCP = (
    "UCX probably goes by TCP: unset UCX_TLS and UCX_NET_DEVICES, and allow process_vm_readv "
    "(Docker: --cap-add=SYS_PTRACE; Kubernetes: shareProcessNamespace)"
)
_REMEDY = {"local": _BUSY, "nixl": _BY_TCP, "ucx": _BY_TCP, "mpi": _BY_TCP}


def examine_probe(plan: Plan | None, probed: Iterable[Probed], env: Mapping[str, str] = EMPTY) -> list[Finding]:
    """
    :param probed: trials; what loads and how fast memory is, is taken from the first of them.
    :param env: what servers inherit.
    """
    trials = list(probed)
    findings = _of_the_machine(plan, trials[0], env) if trials else []
    for trial in trials:
        findings += _links(plan, trial)
    if trials and (missing := _missing(trials[-1])) and not any(finding.severity == "error" for finding in findings):
        findings.append(_unknown(plan, missing, trials[-1]))
    return findings


def _of_the_machine(plan: Plan | None, trial: Probed, env: Mapping[str, str]) -> list[Finding]:
    findings = list(_libraries(plan, [line for line in trial.lines if isinstance(line, Library)]))
    users = [server for server in needs.using_ucx(plan) if server.gpus]
    findings += ucx.findings(trial.by_ucx, needs.environment(users[0], env) if users else env, on_gpu=bool(users))
    if memory := _memory(trial):
        findings.append(Finding(topic="memory rate", found=f"{_rates(memory.rates)} by a plain copy"))
    return findings


def _memory(trial: Probed) -> MemoryRate | None:
    return next((line for line in trial.lines if isinstance(line, MemoryRate)), None)


def _links(plan: Plan | None, trial: Probed) -> list[Finding]:
    links = [line for line in trial.lines if isinstance(line, LinkRate)]
    return [_link(link, _memory(trial), plan, trial.pairs) for link in links if link.transport in trial.transports]


def _missing(trial: Probed) -> list[str]:
    there = {line.transport for line in trial.lines if isinstance(line, LinkRate)}
    return [name for name in trial.transports if name not in there]


def _unknown(plan: Plan | None, missing: list[str], trial: Probed) -> Finding:
    why = trial.error or "it said nothing of them"
    return Finding(
        topic="link",
        severity=_severity(plan, missing),
        found=f"the probe found nothing out about {', '.join(missing)}: {why}",
        remedy="`python -m trtdisagg.cache.probe` shows what happens",
    )


def _libraries(plan: Plan | None, libraries: list[Library]) -> Iterator[Finding]:
    for library in libraries:
        if library.error is None:
            yield Finding(topic=library.name, found=library.version or "loads")
        elif library.name == "kernels":
            remedy = "Plain torch computes in their place, slower: install again where there is a C++ compiler"
            yield Finding(topic="kernels", severity="warning", found=f"not there ({library.error})", remedy=remedy)
        else:
            yield Finding(
                topic=library.name,
                severity="error" if library.name == "torch" else _severity(plan, [library.name]),
                found=f"{library.version or 'not installed'}: does not load ({library.error})",
                remedy=f"`pip install --force-reinstall {library.name}`",
            )


def examine_running(links: Iterable[Link], probed: Iterable[Probed] = ()) -> Iterator[Finding]:
    """The links of a cluster that runs, as its servers measured them when they met.

    :param probed: has the rate of a plain copy, where a trial was made.
    """
    memory = next((memory for trial in probed if (memory := _memory(trial))), None)
    for link in links:
        found = f"{link.context} -> {link.generation}"
        if not link.is_open:
            yield Finding(topic="running link", found=f"{found}: they are about to meet")
        elif link.error is not None:
            yield Finding(
                topic="running link",
                severity="warning",
                found=f"{found}: {link.error}",
                needs="prompts are computed again",
                remedy="`trtdisagg logs` of both says more; `trtdisagg restart` has them meet again",
            )
        else:
            found += f": {link.transport}, {link.direction}, {link.gb_s:.1f} GB/s, {link.latency_us:.0f} us"
            yield _judged("running link", found, link.transport, link.gb_s, memory)


def _link(link: LinkRate, memory: MemoryRate | None, plan: Plan | None, pairs: list[str]) -> Finding:
    topic = f"link {link.transport}"
    if link.error is not None:
        remedy = "Leave it out with cache_transceiver_config.backend, or see to what it says"
        severity = _severity(plan, [link.transport])
        return Finding(topic=topic, severity=severity, found=link.error, remedy=remedy)
    found = f"{_rates(link.rates)} between two processes"
    if link.piece_bytes < MAX_PIECE_BYTES:
        found += f", in pieces of {_piece_words(link.piece_bytes)} as their layouts have it"
    found += f" ({_pair_words(pairs)})" if pairs else ""
    gb_s = link.rates[-1].gb_s if link.rates else 0.0
    finding = _judged(topic, found, link.transport, gb_s, memory)
    if finding.severity == "warning" and link.piece_bytes < MAX_PIECE_BYTES:
        staged = "small pieces go through the staging buffer; `trtdisagg bench kv` measures both"
        return Finding(topic=topic, found=found, needs=staged)
    return finding


def _judged(topic: str, found: str, transport: str, gb_s: float, memory: MemoryRate | None) -> Finding:
    """Whether a rate is what the medium should give."""
    share = gb_s / memory.rates[-1].gb_s if memory and memory.rates and gb_s else None
    if share is None or share >= MIN_SHARE.get(transport, 0.0):
        return Finding(topic=topic, found=found)
    slow = f"a plain copy is {1 / share:.0f} times as fast"
    return Finding(topic=topic, severity="warning", found=found, needs=slow, remedy=_REMEDY[transport])


def _piece_words(num_bytes: int) -> str:
    return f"{num_bytes // 1024} KiB" if num_bytes >= 1024 else f"{num_bytes} bytes"


def _pair_words(pairs: list[str]) -> str:
    """All of a few, else how many beside the first."""
    few = ", ".join(pairs[:3])
    return few if len(pairs) <= 3 else f"{few} and {len(pairs) - 3} more alike"


def _severity(plan: Plan | None, transports: list[str]) -> Severity:
    """Servers that open a transport which does not work do not start."""
    return "error" if any(needs.using(plan, name) for name in transports) else "warning"


def _rates(rates: list[Rate]) -> str:
    """`1 MiB in 0.08 ms, 64 MiB at 8.1 GB/s`: the one is latency, the other throughput."""
    if len(rates) < 2:
        return "nothing measured"
    first, last = rates[0], rates[-1]
    return (
        f"{size_words(first.num_bytes)} in {first.seconds * 1000:.2f} ms, "
        f"{size_words(last.num_bytes)} at {last.gb_s:.1f} GB/s"
    )
