"""Our engine and those that users would pick instead, in turn on one machine: a script, not a test.

    python tests/measure_peers.py --rounds 3 \\
        --peer 'trtdisagg=python tests/peers/ours.py --dtype bfloat16' \\
        --peer 'llama.cpp=python tests/peers/llama_bench.py --bin llama.cpp/build/bin --model smollm2-bf16.gguf' \\
        --peer 'vllm=vllm-venv/bin/python tests/peers/vllm_offline.py --model smollm2-bf16 --dtype bfloat16' \\
        --peer 'transformers=python tests/peers/transformers_generate.py --model smollm2-bf16 --dtype bfloat16'

A peer is a program of its own, with an environment of its own: it says `READY`, then reads the name of a workload (w1,
w2, w3: see trtdisagg/protocol/bench.py) a line and answers each with its result as a line of JSON. The best of all
rounds counts, and the ratio of ours to each; what else the machine does meets all of them alike.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator


class Peer:
    """A program that measures what it is told to."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self._process = process

    def wait_ready(self) -> None:
        while (line := self._read()) != "READY":
            print(f"{self.name}: {line}", file=sys.stderr)

    def measure(self, workload: str) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{workload}\n")
        self._process.stdin.flush()
        result: dict[str, float] = json.loads(self._read())
        return result

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended with {self._process.wait()}")
        return line.strip()


@contextlib.contextmanager
def started(name: str, command: str) -> Iterator[Peer]:
    with subprocess.Popen(
        shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr, text=True
    ) as process:
        try:
            yield Peer(name, process)
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", required=True, metavar="NAME=COMMAND", help="the first one is ours")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workloads", default="w1,w2,w3")
    parser.add_argument("--wait", action="store_true", help="when all are ready, wait for a line on stdin")
    args = parser.parse_args()
    workloads = args.workloads.split(",")
    best: dict[str, dict[str, float]] = defaultdict(dict)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(started(*peer.split("=", maxsplit=1))) for peer in args.peer]
        for peer in peers:
            peer.wait_ready()
        if args.wait:
            print("all are ready", file=sys.stderr)
            sys.stdin.readline()
        for _ in range(args.rounds):
            for workload in workloads:
                for peer in peers:
                    result = peer.measure(workload)
                    print(json.dumps({"at": time.strftime("%X"), "peer": peer.name, "workload": workload, **result}))
                    sys.stdout.flush()
                    best[workload][peer.name] = max(result["tok_s"], best[workload].get(peer.name, 0.0))
    print_table(best)


def print_table(best: dict[str, dict[str, float]]) -> None:
    for workload, rates in best.items():
        ours = next(iter(rates.values()))
        words = [f"{name} {rate:.1f} tok/s (x {ours / rate:.2f})" for name, rate in rates.items()]
        print(f"{workload}: {', '.join(words)}")


if __name__ == "__main__":
    main()
