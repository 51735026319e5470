"""The decoder for CUDA, divided among ranks, against one rank of plain torch; see conftest for machines without a GPU.

Ranks are threads here, on the CPU, and Triton's interpreter serves one at a time. Graphs, and NCCL within them, need as
many devices as there are ranks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.families import TOKENS, VARIANTS, build, reference
from helpers.parallel_runner import drive_loaded

from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.interfaces import Runner
from trtdisagg.engine.models.load import load_decoder
from trtdisagg.engine.ranks import Ranks
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.text.dimensions import read_dimensions
from trtdisagg.text.model_files import files_at

ALL_WAYS = Parallel(tp_size=2, pp_partition=[1, 1], moe_ep_size=2)
BY_REQUESTS = Parallel(tp_size=2, moe_ep_size=2, attention_dp=True)


@pytest.mark.parametrize("parallel", [ALL_WAYS, BY_REQUESTS], ids=["tp and pp", "attention dp"])
def test_divided_as_on_one(device: str, parallel: Parallel, tmp_path: Path) -> None:
    if device != "cpu":
        pytest.skip("threads on one device would wait for each other's kernels")
    from trtdisagg.engine.cuda.decoder import CudaDecoder

    family, changes = VARIANTS["qwen3_moe_dense_layer"]
    model = build(tmp_path, family, **{**changes, "num_experts": 4})
    dims, backend = read_dimensions(files_at(tmp_path)), Backend(torch.float32, torch.device("cpu"))

    def load(rank: int, pool: KvPool, ranks: Ranks | None) -> Runner:
        decoder = load_decoder(str(tmp_path), dims, backend, num_positions=64, parallel=parallel, rank=rank)
        return CudaDecoder(decoder, backend, pool, ranks=ranks)

    with drive_loaded(dims, parallel, load, in_turns=True) as driver:
        a, b = driver.add(), driver.add()
        nothing = driver.run(driver.chunk(a, TOKENS[:3], num_logits=0))
        first = driver.run(driver.chunk(b, TOKENS[5:9]), driver.chunk(a, TOKENS[3:5], num_logits=2))
        second = driver.run(driver.chunk(b, TOKENS[9:10]))
    assert len(nothing) == 0
    expected = reference(model, TOKENS[:5])[3:], reference(model, TOKENS[5:10])[3:]
    near = {"atol": 2e-4, "rtol": 2e-4}
    torch.testing.assert_close(first, torch.cat([expected[1][:1], expected[0]]), **near)
    torch.testing.assert_close(second, expected[1][1:], **near)
