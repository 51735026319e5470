"""A long prompt over two servers whose blocks travel while it is computed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_model
from helpers.engine_process import Engine, make_spec, started, started_gang

from trtdisagg.protocol.commands import Meet
from trtdisagg.protocol.parallel import Parallel
from trtdisagg.protocol.reports import Beat, Linked
from trtdisagg.protocol.spec import PeerAddress, TransferSpec

PROMPT = [(7 * i) % 200 + 1 for i in range(100)]
NUM_TOKENS = 16
BLOCK_BYTES = 8 * tiny_model.LAYERS * tiny_model.KV_HEADS * 2 * tiny_model.HEAD_DIM * 4
PIPELINED = TransferSpec(transports=["local"], pipelined=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("model") / "tiny")


def meet(generation: Engine, context: Engine) -> None:
    ready = context.ready()
    generation.ready()
    address = PeerAddress(server="context-0", incarnation="context-0.1", host=ready.kv_host, port=ready.kv_port)
    generation.command(Meet(peer=address))
    linked = generation.report(Linked)
    assert linked.error is None, linked


def wait_for(engine: Engine, num_cached_blocks: int) -> None:
    while engine.report(Beat).stats.num_cached_blocks < num_cached_blocks:
        pass


def value(engine: Engine, name: str) -> float:
    [found] = re.findall(rf"^{name}{{.*}} (.+)$", engine.get("/metrics").decode(), re.MULTILINE)
    return float(found)


def context_leg(engine: Engine) -> dict[str, Any]:
    seam = {"id": "cmpl-1", "created": 5, "generation": "generation-0"}
    params = {"request_type": "context_only"}
    answer = engine.post(prompt=PROMPT, max_tokens=NUM_TOKENS, ignore_eos=True, disaggregated_params=params, seam=seam)
    given: dict[str, Any] = answer["choices"][0]["disaggregated_params"]
    return given


def test_all_but_the_last_chunk_is_there_before_the_request(model: Path, tmp_path: Path) -> None:
    spec = make_spec(model, "context-0", transfer=PIPELINED, parallel=Parallel(pp_partition=[1, 1]))
    with (
        started_gang(spec, tmp_path) as contexts,
        started(make_spec(model, "generation-0"), tmp_path) as generation,
    ):
        meet(generation, contexts[0])
        params = context_leg(contexts[0])
        wait_for(generation, num_cached_blocks=12)  # of 13: 96 of 100 tokens were computed in three chunks
        fields = {"max_tokens": NUM_TOKENS, "ignore_eos": True, "detokenize": False, "prompt": PROMPT}
        rest = generation.post(**fields, disaggregated_params={**params, "request_type": "generation_only"})
        alone = generation.post(**fields, cache_salt="not those blocks")
        assert rest["choices"][0]["token_ids"] == alone["choices"][0]["token_ids"]
        assert value(generation, "trtdisagg_kv_transfer_bytes_total") == 12 * BLOCK_BYTES
        assert value(generation, "trtdisagg_kv_transfer_failures_total") == 0
