"""Whether what is simulated comes true: the same load simulated and run, apart and together. A script, not a test.

    python tests/measure_advice.py [--file cluster.yaml] [--isl 128:384 --osl 32:96 --concurrency 8] [--requests 40]
                                   [--rounds 2] [--timed] [--json FILE]

One context + one generation server, and one server with the cores of both: each round measures them anew and runs the
load with `bench serve` on the very servers that were measured, so that what else the machine does meets both alike.
With --timed the engine's steps compute nothing and take a known time: what is wrong then is the simulation's fault.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import msgspec
import numpy as np

from trtdisagg.bench.advise.advice import Question
from trtdisagg.bench.advise.designs import designs
from trtdisagg.bench.advise.load import Load, Targets
from trtdisagg.bench.advise.measure.cluster import Running
from trtdisagg.bench.advise.measure.measure import measure_profile
from trtdisagg.bench.advise.outcome import Outcome
from trtdisagg.bench.advise.profile import Profile
from trtdisagg.bench.advise.simulate import Design, simulate
from trtdisagg.bench.serve.arrivals import arrivals
from trtdisagg.bench.serve.load import Load as ServeLoad
from trtdisagg.bench.serve.report import ServeReport
from trtdisagg.bench.workloads.lengths import parse_lengths
from trtdisagg.config.load import load

TIMED = [sys.executable, str(Path(__file__).parent / "fakes" / "timed_engine.py")]
FILE = """
model: smollm2-135m-instruct
max_batch_size: 32
context_servers: {num_instances: 1}
generation_servers: {num_instances: 1}
"""
FIGURES = (
    "output_throughput",
    *(f"{of}_{name}_ms" for of in ("median", "mean") for name in ("ttft", "tpot", "e2el")),
)


def run_load(running: Running, question: Question) -> ServeReport:
    """By the program that users have."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.json")
        load = ["--request-rate", str(question.request_rate)] if question.request_rate else []
        load += ["--concurrency", str(question.concurrency)] if question.concurrency else []
        lengths = ["--isl", question.isl, "--osl", question.osl, "--ignore-eos", "--num-prompts"]
        command = [sys.executable, "-m", "trtdisagg", "bench", "serve", "--url", running.status.url, *load, *lengths]
        command += [str(question.num_requests), "--seed", str(question.seed), "--json", str(report)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=900)
        return msgspec.json.decode(report.read_bytes(), type=ServeReport)


def asked(question: Question) -> Load:
    """With the very arrivals of `bench serve`."""
    drawn = question.load()
    if question.request_rate is None:
        return drawn
    rate, num, seed = question.request_rate, question.num_requests, question.seed
    times = arrivals(ServeLoad(url="http://localhost", num_prompts=num, request_rate=rate, seed=seed), num)
    return msgspec.structs.replace(drawn, gaps=np.diff(times, prepend=0.0) * rate)


def simulated(design: Design, question: Question) -> dict[str, float]:
    outcome: Outcome = simulate(design, asked(question), Targets())
    times = {"ttft": outcome.ttft_ms, "tpot": outcome.tpot_ms, "e2el": outcome.e2el_ms}
    return {
        "output_throughput": outcome.output_throughput,
        **{f"median_{name}_ms": spread.p50 for name, spread in times.items()},
        **{f"mean_{name}_ms": spread.mean for name, spread in times.items()},
    }


def chosen(profile: Profile, file: Path) -> dict[str, Design]:
    """The two clusters that were run."""
    found = designs(profile, load(file).cluster, 2 * profile.servers["generation"].num_units)
    most = max(d.generation.num_units for d in found if d.context is None)
    together = next(d for d in found if d.context is None and d.generation.num_units == most)
    return {"apart": next(d for d in found if d.context), "together": together}


def rounds(file: Path, question: Question, num_rounds: int) -> Iterator[dict[str, Any]]:
    for number in range(num_rounds):
        reports: list[ServeReport] = []

        def while_up(running: Running, found: list[ServeReport] = reports) -> None:
            found.append(run_load(running, question))

        measure = functools.partial(
            measure_profile,
            max_prompt=parse_lengths(question.isl).longest,
            max_streams=question.concurrency or 32,
            stage=lambda words: print(f"{number + 1}: {words}", file=sys.stderr),  # noqa: B023 - told at once
            while_up=while_up,
        )
        profile = anyio.run(measure, file, [])
        clusters = chosen(profile, file)
        yield {
            "profile": msgspec.to_builtins(profile),
        } | {
            name: {
                "run": {figure: getattr(report, figure) for figure in FIGURES},
                "simulated": simulated(clusters[name], question),
            }
            for name, report in zip(("apart", "together"), reports, strict=True)
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--isl", default="128:384")
    parser.add_argument("--osl", default="32:96")
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--request-rate", type=float)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--timed", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if not (args.concurrency or args.request_rate):
        args.concurrency = 8
    question = Question(
        isl=args.isl,
        osl=args.osl,
        concurrency=args.concurrency,
        request_rate=args.request_rate,
        targets=Targets(),
        num_requests=args.requests,
    )
    with tempfile.TemporaryDirectory() as directory:
        file = args.file or Path(directory, "cluster.yaml")
        if not args.file:
            file.write_text(FILE + (f"command: {json.dumps(TIMED)}\n" if args.timed else ""))
        found = list(rounds(file, question, args.rounds))
    for name in ("apart", "together"):
        for figure in FIGURES:
            run, told = (median(one[name][kind][figure] for one in found) for kind in ("run", "simulated"))
            each = " ".join(f"{one[name]['simulated'][figure] / one[name]['run'][figure]:.2f}" for one in found)
            print(f"{name:9} {figure:18} run {run:10.1f}   simulated {told:10.1f}   simulated / run {each}")
    if args.json:
        args.json.write_text(_text(found))


def _text(found: Any) -> str:
    return json.dumps(found, indent=2) + "\n"


if __name__ == "__main__":
    main()
