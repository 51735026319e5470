"""The decoder for CUDA against plain torch, whatever a decoder may be; see conftest for machines without a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
import torch
from helpers.random_decoders import EVERY_OPTION, Options, Sequences, pool_for, random_decoder

from trtdisagg.engine.backend import Backend
from trtdisagg.engine.step import Copy, Step
from trtdisagg.engine.torch_decoder import TorchDecoder

_TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 0.15}


class Pair(NamedTuple):
    """The same decoder twice, each with a pool of its own."""

    fast: Any
    plain: TorchDecoder
    dtype: torch.dtype

    def compare(self, step: Step) -> None:
        tolerance = _TOLERANCE[self.dtype]
        fast, plain = self.fast.run(step).cpu(), self.plain.run(step).cpu()
        torch.testing.assert_close(fast, plain, atol=tolerance, rtol=tolerance)


class Maker:
    def __init__(self, device: str, stack: ExitStack) -> None:
        self.device = device
        self.stack = stack

    def pair(self, options: Options, num_blocks: int, max_batch_size: int = 0) -> Pair:
        from trtdisagg.engine.cuda.decoder import CudaDecoder

        backend = Backend(options.dtype, torch.device(self.device))
        decoder = random_decoder(options, device=self.device)
        pools = [self.stack.enter_context(pool_for(options, num_blocks, device=self.device)) for _ in range(2)]
        for pool in pools:
            pool.tensor.zero_()
        fast = CudaDecoder(decoder, backend, pools[0], max_batch_size=max_batch_size, max_seq_len=256)
        return Pair(fast, TorchDecoder(decoder, backend, pools[1]), options.dtype)


@pytest.fixture
def maker(device: str) -> Iterator[Maker]:
    with ExitStack() as stack:
        yield Maker(device, stack)


@pytest.mark.parametrize("name", EVERY_OPTION)
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)])
def test_prompts_in_chunks_beside_generation(name: str, dtype: torch.dtype, maker: Maker) -> None:
    sequences = Sequences([30, 11, 5])
    pair = maker.pair(Options(**EVERY_OPTION[name], dtype=dtype), sequences.num_blocks)
    pair.compare(sequences.step({0: 13, 2: 3}))
    pair.compare(sequences.step({0: 16, 1: 10, 2: 1}, num_logits=None))
    pair.compare(sequences.step({2: 1, 0: 1, 1: 1}))


def test_splits_of_the_keys_are_put_together(maker: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = Sequences([200, 9])
    pair = maker.pair(Options(windows=(70, None)), sequences.num_blocks)
    monkeypatch.setattr(pair.fast._attention, "_num_processors", 9)
    pair.compare(sequences.step({0: 198, 1: 7}))
    for _ in range(2):
        pair.compare(sequences.step({0: 1, 1: 1}))


def test_a_block_that_was_shared_is_copied_first(maker: Maker) -> None:
    sequences = Sequences([8, 8])
    pair = maker.pair(Options(), sequences.num_blocks)
    pair.compare(sequences.step({0: 5}))
    sequences.num_done[1] = 5
    step = sequences.step({1: 3}, num_logits=None)
    pair.compare(Step(step.chunks, copies=[Copy(sequences.blocks[0][0], sequences.blocks[1][0])]))


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")  # those rows hold anything
def test_rows_that_only_fill_a_batch_up_write_nothing(maker: Maker) -> None:
    from trtdisagg.engine.cuda.batch import FixedBatch

    sequences = Sequences([8, 8])
    pair = maker.pair(Options(), sequences.num_blocks)
    pair.compare(sequences.step({0: 7, 1: 4}))
    before = pair.fast._pool.tensor.clone()
    step = sequences.step({1: 1})
    batch = FixedBatch(4, max_blocks=32, device=torch.device(maker.device))
    batch.fill(step.chunks, tokens_per_block=8)
    with torch.inference_mode():
        logits = pair.fast._forward(batch.batch)[:1]
    torch.testing.assert_close(logits, pair.plain.run(step), atol=2e-4, rtol=2e-4)
    changed = (pair.fast._pool.tensor != before).flatten(1).any(1).nonzero().flatten().tolist()
    assert changed == [sequences.blocks[1][0]]


@pytest.mark.gpu
def test_graphs_compute_what_single_launches_do(maker: Maker) -> None:
    sequences = Sequences([20, 12, 7])
    pair = maker.pair(Options(), sequences.num_blocks, max_batch_size=4)
    pair.fast.prepare()
    pair.compare(sequences.step({0: 17, 1: 9, 2: 4}))
    for counts in ({0: 1, 1: 1, 2: 1}, {1: 1}, {2: 1, 0: 1}):
        pair.compare(sequences.step(counts))
