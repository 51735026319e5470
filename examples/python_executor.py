"""An engine inside a program: a model, requests, and tokens as they come.

python examples/python_executor.py "The capital of France is"
"""

from __future__ import annotations

import argparse

from trtdisagg.api import EngineOptions, Request, SamplingParams, open_executor

parser = argparse.ArgumentParser(description="Goes on with a text, in two ways at once.")
parser.add_argument("text")
parser.add_argument("--model", default="smollm2-135m-instruct", help="alias, hub id, directory or .gguf file")
parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
parser.add_argument("--max-tokens", type=int, default=16)
args = parser.parse_args()

with open_executor(EngineOptions(model=args.model, dtype=args.dtype)) as (executor, tokenizer):
    prompt = tokenizer.encode(args.text)
    greedy = SamplingParams(max_tokens=args.max_tokens, temperature=0)
    random = SamplingParams(max_tokens=args.max_tokens, temperature=0.8, top_p=0.95, seed=7)
    for request_id, sampling in ((1, greedy), (2, random)):
        executor.enqueue_request(Request(id=request_id, prompt_token_ids=prompt, sampling=sampling))

    answers: dict[int, list[int]] = {1: [], 2: []}
    running = set(answers)
    while running:
        outputs = executor.await_responses(timeout_s=60)
        if not outputs:
            raise TimeoutError("no token within a minute")
        for output in outputs:
            answers[output.request_id] += output.new_token_ids
            if output.error:
                raise RuntimeError(output.error)
            if output.finish_reason:
                running.remove(output.request_id)

for request_id, name in ((1, "greedy"), (2, "sampled")):
    print(f"{name}: {args.text}{tokenizer.decode(answers[request_id])}")
