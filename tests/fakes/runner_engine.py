"""The real engine process with a runner that computes nothing: HTTP, executor and beats are the real ones.

    python tests/fakes/runner_engine.py --spec FILE

A prompt that begins with LONG makes the next step a long one that shows progress; one with BLOCK blocks the step;
SIGUSR1 blocks the event loop. Each until SIGUSR2.
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
VOCAB_SIZE = 512


class SlowRunner(FakeRunner):
    def __init__(self, tokens_per_block: int, progress: Progress) -> None:
        super().__init__(tokens_per_block)
        self.progress = progress
        self.may_go_on = threading.Event()

    def run(self, step: Step) -> Tensor:
        beginnings = {chunk.tokens[0] for chunk in step.chunks if chunk.start == 0}
        if LONG in beginnings:
            self.hold(self.progress.tick)
        if BLOCK in beginnings:
            self.hold()
        del self.steps[:]
        return super().run(step)

    def hold(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        """In small sleeps: a thread that waits for the event could not run the signal's handler that sets it."""
        self.may_go_on.clear()
        while not self.may_go_on.is_set():
            time.sleep(0.05)
            meanwhile()


@asynccontextmanager
async def open_engine(
    spec: EngineSpec, secret: bytes, delivery: Delivery, stage: Callable[[str], None], **_: object
) -> AsyncIterator[Loaded]:
    stage("nothing")
    tokenizer = make_tokenizer()
    progress = Progress()
    runner = SlowRunner(spec.tokens_per_block, progress)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, runner.hold)
    signal.signal(signal.SIGUSR2, lambda *_: runner.may_go_on.set())  # also while the loop is held
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
