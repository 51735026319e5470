"""The real engine, whose steps take a known time and compute nothing: on a busy machine as on an idle one.

    python tests/fakes/timed_engine.py --spec FILE

HTTP, scheduler, KV pool and transfers are the real ones; the answer is always the same word.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor

from trtdisagg.engine import __main__ as program
from trtdisagg.engine.runner import ModelRunner
from trtdisagg.engine.step import Step

BASE_S, SHARED_S = 10e-3, 8e-3
STREAM_S, KV_S = 1e-3, 2e-6
PROMPT_TOKEN_S, PAIR_S = 4e-4, 2e-7
WORD = 260
VOCAB_SIZE = 49152


def step_s(step: Step) -> float:
    streams = [chunk for chunk in step.chunks if len(chunk.tokens) == 1 and chunk.start]
    prompts = [chunk for chunk in step.chunks if len(chunk.tokens) > 1 or not chunk.start]
    seconds = sum(STREAM_S + KV_S * (chunk.start + 1) for chunk in streams)
    for chunk in prompts:
        num = len(chunk.tokens)
        seconds += PROMPT_TOKEN_S * num + PAIR_S * num * (chunk.start + (num + 1) / 2)
    return seconds + BASE_S * bool(streams) + (BASE_S - (SHARED_S if streams else 0.0)) * bool(prompts)


def run(_: ModelRunner, step: Step) -> Tensor:
    time.sleep(step_s(step))
    logits = torch.zeros(sum(chunk.num_logits for chunk in step.chunks), VOCAB_SIZE)
    logits[:, WORD] = 100.0
    return logits


if __name__ == "__main__":
    ModelRunner.run = run  # type: ignore[method-assign]
    code = program.main()
    logging.shutdown()
    os._exit(code)
