"""What is measured is what was asked for, and counted as it says; the limits are arithmetic over the machine's."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from helpers import tiny_model

from trtdisagg.cache.native import extension
from trtdisagg.engine.measure.limits import LimitMeter
from trtdisagg.engine.measure.model_cost import ModelCost
from trtdisagg.engine.measure.workloads import Requests, Stopwatch, run
from trtdisagg.engine.request import Output, Request
from trtdisagg.errors import UnavailableError
from trtdisagg.protocol.bench import LOADS, Limits
from trtdisagg.text.dimensions import ModelDimensions, read_dimensions
from trtdisagg.text.model_files import files_at

LIMITS = Limits(memory_gb_s=50, gemm_float32_gflop_s=200, gemm_bfloat16_gflop_s=800, fma_gflop_s=500)


class Clockwork:
    """An executor on a clock of its own: the first token after a second, each other after a tenth."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.stopwatch = Stopwatch(lambda: self.now_s)
        self.requests: list[Request] = []
        self.num_expected = 1
        self.finish: str = "length"

    def enqueue_request(self, request: Request) -> int:
        self.requests.append(request)
        if len(self.requests) == self.num_expected:
            self._answer()
        return request.id

    def _answer(self) -> None:
        for number in range(self.requests[0].sampling.max_tokens):
            self.now_s += 0.1 if number else 1.0
            is_last = number + 1 == self.requests[0].sampling.max_tokens
            finish = self.finish if is_last else None
            outputs = [Output(request_id=r.id, new_token_ids=[1], finish_reason=finish) for r in self.requests]
            self.stopwatch.deliver(outputs)
        self.requests = []


@pytest.fixture
def clockwork() -> Clockwork:
    return Clockwork()


def test_one_stream_is_counted_behind_its_first_token(clockwork: Clockwork) -> None:
    timing = run("w1", clockwork, clockwork.stopwatch, Requests(100))
    assert timing.tok_s == pytest.approx(10)
    assert timing.ttft_s == pytest.approx(1)


def test_many_at_once_are_counted_with_their_prefill(clockwork: Clockwork) -> None:
    clockwork.num_expected = 32
    timing = run("w2", clockwork, clockwork.stopwatch, Requests(100))
    assert timing.tok_s == pytest.approx(32 * 128 / (1 + 12.7))


def test_prefill_is_counted_in_prompt_tokens(clockwork: Clockwork) -> None:
    timing = run("w3", clockwork, clockwork.stopwatch, Requests(100))
    assert timing.tok_s == pytest.approx(8 * 1024 / 8)
    assert clockwork.now_s == pytest.approx(8)


def test_a_request_that_fails_is_no_measurement(clockwork: Clockwork) -> None:
    clockwork.finish = "cancelled"
    with pytest.raises(UnavailableError, match="cancelled"):
        run("w1", clockwork, clockwork.stopwatch, Requests(100))


def test_no_prompt_comes_twice() -> None:
    requests = Requests(1000)
    made = [r for _ in range(3) for r in requests.make(LOADS["w2"])]
    assert len({tuple(r.prompt_token_ids) for r in made}) == len({r.id for r in made}) == 96


@pytest.fixture(scope="module")
def dims(tmp_path_factory: pytest.TempPathFactory) -> ModelDimensions:
    return read_dimensions(files_at(tiny_model.write(tmp_path_factory.mktemp("models") / "tiny")))


def test_decoding_alone_is_bound_by_the_weights(dims: ModelDimensions) -> None:
    """At W1 the bound is bandwidth over bytes: weights, and the KV of 192 tokens."""
    cost = ModelCost(dims=dims, dtype="bfloat16")
    assert cost.weight_bytes() == 2 * dims.num_parameters
    kv_bytes = 192 * 2 * tiny_model.LAYERS * tiny_model.KV_HEADS * tiny_model.HEAD_DIM * 2
    assert cost.limit_tok_s("w1", LIMITS) == pytest.approx(50e9 / (2 * dims.num_parameters + kv_bytes))
    halved = ModelCost(dims=dims, dtype="bfloat16", quantization="int8")
    assert halved.weight_bytes() == dims.num_parameters


def test_prefill_is_bound_by_arithmetic(dims: ModelDimensions) -> None:
    """Counted by hand: all matrices but the embedding for each token, the head for one, attention to what is before."""
    hidden, inner, heads = tiny_model.HIDDEN, tiny_model.INNER, tiny_model.HEADS * tiny_model.HEAD_DIM
    kv = tiny_model.KV_HEADS * tiny_model.HEAD_DIM
    matrices = tiny_model.LAYERS * (hidden * (heads + 2 * kv) + heads * hidden + 3 * hidden * inner)
    operations = 2 * 1024 * matrices + 2 * tiny_model.VOCAB * hidden
    operations += tiny_model.LAYERS * 4 * heads * 1024 * 1025 / 2
    slow = msgspec.structs.replace(LIMITS, gemm_bfloat16_gflop_s=0.001, gemm_float32_gflop_s=0.001, fma_gflop_s=0.002)
    for dtype in ("float32", "bfloat16"):
        limit = ModelCost(dims=dims, dtype=dtype).limit_tok_s("w3", slow)
        assert limit == pytest.approx(1024 * 2e6 / operations, rel=0.01)  # norms are counted with the matrices


def test_experts_are_read_as_they_are_chosen(dims: ModelDimensions) -> None:
    mixture = msgspec.structs.replace(
        dims,
        num_experts=8,
        num_active_experts=2,
        expert_size=64,
        num_parameters=dims.num_parameters + 8 * 2 * 3 * 32 * 64,
    )
    cost = ModelCost(dims=mixture, dtype="float32")
    assert cost.weight_bytes(1) == pytest.approx(4 * (dims.num_parameters + 2 * 2 * 3 * 32 * 64))
    assert cost.weight_bytes(1) < cost.weight_bytes(2) < 4 * mixture.num_parameters


def test_the_machine_has_limits() -> None:
    meter = LimitMeter("cpu", 1)
    meter.measure()
    first = meter.limits
    meter.measure()
    assert all(value > 0 for value in msgspec.structs.astuple(first) if value is not None)
    assert all(b >= a for a, b in zip(*map(msgspec.structs.astuple, (first, meter.limits)), strict=True) if a)


@pytest.mark.skipif(extension() is None, reason="the C++ extension is not built")
@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("num_bytes", [0, 7, 4096, (3 << 20) + 13])
def test_all_memory_is_read(num_threads: int, num_bytes: int) -> None:
    """Whichever byte changes, the result does."""
    csrc = extension()
    assert csrc is not None
    data = np.random.default_rng(0).integers(0, 256, num_bytes, np.uint8)
    found = csrc.read_memory(data.ctypes.data, num_bytes, csrc.Workers(num_threads))
    changed = data.copy()
    for at in {0, num_bytes // 2, num_bytes - 1} if num_bytes else ():
        changed[at] ^= 0x5A
        assert csrc.read_memory(changed.ctypes.data, num_bytes, csrc.Workers(num_threads)) != found
        changed[at] ^= 0x5A


@pytest.mark.skipif(extension() is None, reason="the C++ extension is not built")
def test_operations_are_counted() -> None:
    csrc = extension()
    assert csrc is not None
    one = csrc.multiply_add(1, csrc.Workers(1))
    assert one > 0
    assert csrc.multiply_add(1000, csrc.Workers(2)) == 2000 * one
