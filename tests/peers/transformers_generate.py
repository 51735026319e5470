"""`generate` of transformers, as `measure_peers.py` asks for it."""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True, help="directory with safetensors")
parser.add_argument("--dtype", required=True)
parser.add_argument("--threads", type=int, default=2)
args = parser.parse_args()

torch.set_num_threads(args.threads)
model = AutoModelForCausalLM.from_pretrained(args.model, dtype=getattr(torch, args.dtype))


def seconds(num_prompts: int, isl: int, osl: int) -> float:
    tokens = torch.randint(40_000, (num_prompts, isl))
    begin = time.perf_counter()
    with torch.inference_mode():
        model.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            min_new_tokens=osl,
            max_new_tokens=osl,
            do_sample=False,
            pad_token_id=0,
        )
    return time.perf_counter() - begin


def measure(workload: str) -> dict[str, float]:
    if workload == "w1":
        first = seconds(1, 128, 1)
        return {"tok_s": 127 / (seconds(1, 128, 128) - first), "ttft_ms": first * 1000}
    if workload == "w2":
        return {"tok_s": 32 * 128 / seconds(32, 128, 128)}
    return {"tok_s": 8 * 1024 / sum(seconds(1, 1024, 1) for _ in range(8))}


seconds(1, 16, 2)
print("READY", flush=True)
for line in sys.stdin:
    print(json.dumps(measure(line.strip())), flush=True)
