"""vLLM without HTTP, as `measure_peers.py` asks for it.

As its CPU build is best on two cores: VLLM_CPU_OMP_THREADS_BIND=0-1 VLLM_CPU_NUM_OF_RESERVED_CPU=0
VLLM_ENABLE_V1_MULTIPROCESSING=0, and LD_PRELOAD of tcmalloc_minimal and libiomp5.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("--model", required=True, help="directory with safetensors")
parser.add_argument("--dtype", required=True)
args = parser.parse_args()

out = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # vLLM writes its log to stdout

from vllm import LLM, SamplingParams  # noqa: E402

llm = LLM(model=args.model, dtype=args.dtype, max_model_len=2048, max_num_seqs=64, enable_prefix_caching=False)
rng = random.Random(0)


def seconds(num_prompts: int, isl: int, osl: int) -> float:
    prompts = [{"prompt_token_ids": [rng.randrange(40_000) for _ in range(isl)]} for _ in range(num_prompts)]
    sampling = SamplingParams(max_tokens=osl, temperature=0, ignore_eos=True)
    begin = time.perf_counter()
    llm.generate(prompts, sampling, use_tqdm=False)
    return time.perf_counter() - begin


def measure(workload: str) -> dict[str, float]:
    if workload == "w1":
        first = seconds(1, 128, 1)
        return {"tok_s": 127 / (seconds(1, 128, 128) - first), "ttft_ms": first * 1000}
    if workload == "w2":
        return {"tok_s": 32 * 128 / seconds(32, 128, 128)}
    return {"tok_s": 8 * 1024 / sum(seconds(1, 1024, 1) for _ in range(8))}


seconds(1, 128, 4)
print("READY", file=out, flush=True)
for line in sys.stdin:
    print(json.dumps(measure(line.strip())), file=out, flush=True)
