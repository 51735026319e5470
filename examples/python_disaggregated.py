"""Context and generation on executors of their own, in one program: by hand, and orchestrated.

python examples/python_disaggregated.py "The capital of France is"

Both print the same: where a request is computed does not change what comes of it.
"""

from __future__ import annotations

import argparse
import os

import msgspec

from trtdisagg.api import DisaggOrchestrator, EngineOptions, Executor, Output, Request, SamplingParams, open_executor

parser = argparse.ArgumentParser(description="Goes on with a text; one executor reads it, another one writes.")
parser.add_argument("text")
parser.add_argument("--model", default="smollm2-135m-instruct", help="alias, hub id, directory or .gguf file")
parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float32"])
parser.add_argument("--max-tokens", type=int, default=16)
args = parser.parse_args()

TIMEOUT_S = 60
cores = sorted(os.sched_getaffinity(0))
half = len(cores) // 2
if not half:
    parser.error("two cores are needed: one for each executor")
options = EngineOptions(model=args.model, dtype=args.dtype, transports=["local"])
sampling = SamplingParams(max_tokens=args.max_tokens, temperature=0)


def all_of(executor: Executor | DisaggOrchestrator, request_id: int) -> list[Output]:
    """Wait for everything that a request is answered with."""
    outputs: list[Output] = []
    while not (outputs and outputs[-1].finish_reason):
        new = executor.await_responses(request_id, timeout_s=TIMEOUT_S)
        if not new:
            raise TimeoutError(f"no token within {TIMEOUT_S} s")
        outputs += new
    if outputs[-1].error:
        raise RuntimeError(outputs[-1].error)
    return outputs


def tokens_of(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.new_token_ids]


def by_hand() -> str:
    context_options = msgspec.structs.replace(options, device_ids=cores[:half])
    generation_options = msgspec.structs.replace(options, device_ids=cores[half : 2 * half])
    with open_executor(context_options) as context, open_executor(generation_options) as generation:
        prompt = context.tokenizer.encode(args.text)
        request = Request(id=1, type="context_only", prompt_token_ids=prompt, sampling=sampling)
        context.executor.enqueue_request(request)
        [first] = all_of(context.executor, 1)
        if first.context_phase_params is None:  # the answer has ended with its first token
            return context.tokenizer.decode(first.new_token_ids)
        request = Request(
            id=901,  # ids of two executors have nothing to do with each other
            type="generation_only",
            prompt_token_ids=prompt,
            sampling=sampling,
            context_phase_params=first.context_phase_params,
        )
        generation.executor.enqueue_request(request)
        return generation.tokenizer.decode(tokens_of(all_of(generation.executor, 901)))


def orchestrated() -> str:
    with DisaggOrchestrator(
        options, context_device_ids=[cores[:half]], generation_device_ids=[cores[half : 2 * half]]
    ) as orchestrator:
        prompt = orchestrator.tokenizer.encode(args.text)
        orchestrator.enqueue_request(Request(id=1, prompt_token_ids=prompt, sampling=sampling))
        return orchestrator.tokenizer.decode(tokens_of(all_of(orchestrator, 1)))


print(f"by hand:      {args.text}{by_hand()}")
print(f"orchestrated: {args.text}{orchestrated()}")
