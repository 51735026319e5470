"""llama.cpp's own programs, as `measure_peers.py` asks for them: decoding is measured behind a prompt of 128 tokens."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

parser = argparse.ArgumentParser()
parser.add_argument("--bin", type=Path, required=True, help="directory with llama-bench and llama-batched-bench")
parser.add_argument("--model", required=True, help=".gguf file")
parser.add_argument("--threads", default="2")
args = parser.parse_args()


def rows(program: str, *options: str) -> list[dict[str, Any]]:
    command = [args.bin / program, "-m", args.model, "-t", args.threads, *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]


def measure(workload: str) -> dict[str, float]:
    if workload == "w1":
        [row] = rows("llama-bench", "-p", "0", "-n", "128", "-d", "128", "-r", "1", "-o", "jsonl")
        return {"tok_s": row["avg_ts"]}
    if workload == "w2":
        sizes = ["-npp", "128", "-ntg", "128", "-npl", "32", "-c", "8448", "-b", "2048", "-ub", "512"]
        [row] = rows("llama-batched-bench", *sizes, "--output-format", "jsonl")
        return {"tok_s": 32 * 128 / row["t"]}
    [row] = rows("llama-bench", "-p", "1024", "-ub", "1024", "-n", "0", "-r", "4", "-o", "jsonl")
    return {"tok_s": row["avg_ts"]}


print("READY", flush=True)
for line in sys.stdin:
    print(json.dumps(measure(line.strip())), flush=True)
