"""The real engine process with a runner that computes nothing: HTTP, executor and beats are the real ones.

    python tests/fakes/runner_engine.py --spec FILE

A prompt that begins with LONG makes the next step a long one that shows progress; one with BLOCK blocks the step until
SIGUSR2. SIGUSR1 blocks the event loop for a while.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fakes.runner import FakeRunner
from helpers.http_face import make_tokenizer
from torch import Tensor

from trtdisagg.engine import __main__ as program
from trtdisagg.engine.executor import Executor
from trtdisagg.engine.http.delivery import Delivery
from trtdisagg.engine.limits import Limits
from trtdisagg.engine.progress import Progress
from trtdisagg.engine.serve import Loaded
from trtdisagg.engine.step import Step
from trtdisagg.protocol.spec import EngineSpec

LONG, BLOCK = 7, 8
LONG_S = 3.0
VOCAB_SIZE = 512


class SlowRunner(FakeRunner):
    def __init__(self, tokens_per_block: int, progress: Progress) -> None:
        super().__init__(tokens_per_block)
        self.progress = progress
        self.may_go_on = threading.Event()

    def run(self, step: Step) -> Tensor:
        beginnings = {chunk.tokens[0] for chunk in step.chunks if chunk.start == 0}
        if LONG in beginnings:
            end = time.monotonic() + LONG_S
            while time.monotonic() < end:
                time.sleep(0.05)
                self.progress.tick()
        if BLOCK in beginnings:
            self.may_go_on.clear()
            self.may_go_on.wait()
        del self.steps[:]
        return super().run(step)


@asynccontextmanager
async def open_engine(
    spec: EngineSpec, secret: bytes, delivery: Delivery, stage: Callable[[str], None], **_: object
) -> AsyncIterator[Loaded]:
    stage("nothing")
    tokenizer = make_tokenizer()
    progress = Progress()
    runner = SlowRunner(spec.tokens_per_block, progress)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, time.sleep, LONG_S)
    loop.add_signal_handler(signal.SIGUSR2, runner.may_go_on.set)
    limits = Limits(
        max_batch_size=spec.max_batch_size,
        max_num_tokens=spec.max_num_tokens,
        max_seq_len=spec.max_seq_len,
        max_queue_size=spec.max_queue_size,
        num_blocks=spec.num_blocks,
        tokens_per_block=spec.tokens_per_block,
        vocab_size=VOCAB_SIZE,
    )
    with Executor(runner=runner, limits=limits, deliver=delivery.deliver, progress=progress) as executor:
        yield Loaded(executor, tokenizer)


if __name__ == "__main__":
    program._open_engine = open_engine
    code = program.main()
    logging.shutdown()
    os._exit(code)
