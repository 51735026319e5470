"""Does disaggregation pay on two cores? Long prompts arrive beside running streams; the same on each cluster.

    python -m tests.measure_does_it_pay --json FILE [--rounds 3] [--streams 4] [--num-streams 32] [--long-rate 0.08]
                                        [--long-isl 1024:2048] [--goodput ttft:4000 tpot:60] [--variants NAME...]

Streams (64 to 128 tokens in, 128 to 256 out) are held at a constant number, first alone, then with long prompts that
arrive at random: SmolLM2 reads some 280 tokens a second on a core of a machine with AVX2, so the rate keeps the core of
a context server busy half of the time. Clusters take turns; each is started anew, and the same is asked of each in a
round. What all loads reported is in FILE, which is written after every round; the table has medians over the rounds.
A round takes about a quarter of an hour on a quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from helpers.cluster import TRTDISAGG, Cluster, running
from helpers.ports import free_port

_ALONE = "context_servers: {num_instances: 0}\n"
_BESIDE = "context_servers: {cores: [0]}\ngeneration_servers: {cores: [1]}"
VARIANTS = {
    "aggregated": _ALONE + "generation_servers: {cores: [0, 1]}",
    "small-chunks": _ALONE + "generation_servers: {cores: [0, 1], max_num_tokens: 256}",
    "replicas": _ALONE + "generation_servers: {num_instances: 2, cores: [0, 1]}",
    "disaggregated": _BESIDE,
    "conditional": _BESIDE + "\nconditional_disagg_config: {max_local_prefill_length: 256}",
}
"""One server with both cores; the same with prompts cut small; two servers with a core each; one context and one
generation server with a core each; the same, with short prompts left to the generation server."""
FIGURES = {
    "streams: TPOT p99 [ms]": ("streams", "p99_tpot_ms"),
    "streams: TPOT p50 [ms]": ("streams", "p50_tpot_ms"),
    "streams: ITL p99 [ms]": ("streams", "p99_itl_ms"),
    "streams: TTFT p50 [ms]": ("streams", "p50_ttft_ms"),
    "streams: TTFT p99 [ms]": ("streams", "p99_ttft_ms"),
    "streams: goodput [req/s]": ("streams", "request_goodput"),
    "streams: requests [req/s]": ("streams", "request_throughput"),
    "streams: output [tok/s]": ("streams", "output_throughput"),
    "long prompts: TTFT p50 [ms]": ("long", "p50_ttft_ms"),
    "long prompts: TTFT p99 [ms]": ("long", "p99_ttft_ms"),
    "alone: TPOT p50 [ms]": ("alone", "p50_tpot_ms"),
    "alone: TPOT p99 [ms]": ("alone", "p99_tpot_ms"),
    "alone: goodput [req/s]": ("alone", "request_goodput"),
}
Report = dict[str, Any]
MAX_LONG = 500
"""Prompts that are made before the first is asked; more never arrive while streams run."""


def cluster_text(variant: str) -> str:
    return f"name: pay\nmodel: smollm2-135m-instruct\nport: {free_port()}\n{VARIANTS[variant]}\n"


def measure(variant: str, options: argparse.Namespace, seed: int) -> dict[str, Report]:
    """Three reports: streams alone, streams beside long prompts, and those prompts."""
    with tempfile.TemporaryDirectory(prefix="pay") as directory, running(Path(directory), cluster_text(variant)) as it:
        streams = [
            *(f"--concurrency={options.streams}", f"--num-prompts={options.num_streams}", "--warmup=4"),
            *("--isl=64:128", "--osl=128:256", f"--seed={seed}", f"--goodput={' '.join(options.goodput)}"),
        ]
        alone = load(it, "alone", *streams)
        with arriving(it, options.long_rate, options.long_isl, seed) as long:
            beside = load(it, "streams", *streams, f"--seed={seed + 1}")
        return {"alone": alone, "streams": beside, "long": json.loads(long.read_text())}


def load(cluster: Cluster, name: str, *words: str) -> Report:
    file = cluster.directory / f"{name}.json"
    done = subprocess.run(bench(name, cluster, *words), env=cluster.env, check=False, timeout=1800)
    assert done.returncode == 0, f"bench serve ended with {done.returncode}"
    report: Report = json.loads(file.read_text())
    assert not report["failed"], report["errors"]
    return report


@contextlib.contextmanager
def arriving(cluster: Cluster, rate: float, isl: str, seed: int) -> Iterator[Path]:
    """Long prompts for as long as the block runs. Their report is in the file that is yielded, afterwards."""
    words = [f"--request-rate={rate}", f"--num-prompts={MAX_LONG}", f"--isl={isl}", "--osl=16", f"--seed={seed + 2}"]
    with subprocess.Popen(bench("long", cluster, *words), env=cluster.env, start_new_session=True) as process:
        try:
            yield cluster.directory / "long.json"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)
    assert process.returncode == 128 + signal.SIGINT, f"bench serve ended with {process.returncode}"


def bench(name: str, cluster: Cluster, *words: str) -> list[str]:
    file = cluster.directory / f"{name}.json"
    return [*TRTDISAGG, "bench", "serve", f"--url={cluster.url}", "--ignore-eos", f"--json={file}", *words]


def table(rounds: list[dict[str, dict[str, Report]]]) -> str:
    variants = list(rounds[0])
    lines = [" " * 30 + "".join(f"{v:>15}" for v in variants)]
    for words, (name, key) in FIGURES.items():
        values = [statistics.median(r[v][name][key] for r in rounds) for v in variants]
        lines.append(f"{words:30}" + "".join(f"{value:15.2f}" for value in values))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=4)
    parser.add_argument("--num-streams", type=int, default=32)
    parser.add_argument("--long-rate", type=float, default=0.08)
    parser.add_argument("--long-isl", default="1024:2048")
    parser.add_argument("--goodput", nargs="+", default=["ttft:4000", "tpot:60"])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # clusters come down then, too
    rounds: list[dict[str, dict[str, Report]]] = []
    for number in range(options.rounds):
        rounds.append({variant: measure(variant, options, 10 * number) for variant in options.variants})
        written = {"command": shlex.join(sys.argv), "variants": VARIANTS, "rounds": rounds}
        options.json.write_text(json.dumps(written, indent=2))
        print(f"\nmedians of {len(rounds)} rounds\n{table(rounds)}", flush=True)


if __name__ == "__main__":
    main()
