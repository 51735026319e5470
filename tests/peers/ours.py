"""Our executor, as `measure_peers.py` asks for it."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from trtdisagg.api import EngineOptions, open_executor
from trtdisagg.engine.measure.workloads import MAX_KV_TOKENS, Requests, Stopwatch, run

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="smollm2-135m-instruct")
parser.add_argument("--dtype", default="bfloat16")
parser.add_argument("--quantization", default="none")
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

options = EngineOptions(
    model=args.model,
    dtype=args.dtype,
    quantization=args.quantization,
    num_threads=args.threads,
    max_kv_tokens=2 * MAX_KV_TOKENS,
)
stopwatch = Stopwatch()
with open_executor(options, deliver=stopwatch.deliver) as (executor, tokenizer):
    requests = Requests(40_000)
    run("w1", executor, stopwatch, requests)
    print("READY", flush=True)
    for line in sys.stdin:
        timing = run(line.strip(), executor, stopwatch, requests)
        print(json.dumps({"tok_s": timing.tok_s, "ttft_ms": timing.ttft_s * 1000}), flush=True)
