"""A model divided among ranks says what it says on one: every family, and every way to divide."""

from __future__ import annotations

from pathlib import Path
from threading import BrokenBarrierError
from typing import Any

import gguf
import pytest
import torch
from helpers.families import TOKENS, VARIANTS, build
from helpers.gguf_files import write_gguf
from helpers.parallel_runner import ParallelDriver, drive_ranks
from safetensors.torch import load_file, save_file
from torch import Tensor

from trtdisagg.engine import backend
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.models.cuts import Part
from trtdisagg.engine.models.load import load_decoder
from trtdisagg.engine.models.weights import SafetensorsWeights
from trtdisagg.errors import StartupError
from trtdisagg.protocol.parallel import ONE_RANK, Parallel
from trtdisagg.text.dimensions import read_dimensions, weight_bytes_of_rank
from trtdisagg.text.model_files import files_at

TP2 = Parallel(tp_size=2, moe_ep_size=2)
PP2 = Parallel(pp_partition=[1, 1])
BOTH = Parallel(tp_size=2, pp_partition=[1, 1], moe_tp_size=2)
NEAR = {"atol": 2e-4, "rtol": 2e-4}


@pytest.fixture(params=["csrc", "torch"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(backend, "extension", lambda: None)
    return str(request.param)


def said(path: Path, parallel: Parallel, **options: Any) -> list[Tensor]:
    """What a model answers in a few steps: prompts in pieces, some without logits, single tokens, copied blocks."""
    with drive_ranks(path, parallel, **options) as driver:
        return list(steps(driver))


def steps(driver: ParallelDriver) -> Any:
    a, b, c = driver.add(), driver.add(), driver.add()
    yield driver.run(driver.chunk(a, TOKENS[:13], num_logits=0))
    yield driver.run(driver.chunk(b, TOKENS[5:12]), driver.chunk(a, TOKENS[13:50], num_logits=3))
    yield driver.run(driver.chunk(a, TOKENS[50:51]), driver.chunk(c, TOKENS[9:10]), driver.chunk(b, TOKENS[12:13]))
    moved = [driver.move(a), driver.move(b)]
    yield driver.run(driver.chunk(c, TOKENS[10:11]), driver.chunk(a, TOKENS[51:52]), copies=moved)
    yield driver.run(driver.chunk(b, TOKENS[13:15], num_logits=2))


def assert_divisible(path: Path, *divided: Parallel, **options: Any) -> None:
    expected = said(path, ONE_RANK, **options)
    for parallel in divided:
        for got, wanted in zip(said(path, parallel, **options), expected, strict=True):
            torch.testing.assert_close(got, wanted, **NEAR)


OF_TWO = {
    "llama_untied": (TP2, BOTH),
    "llama_biases": (TP2, PP2),
    "llama_one_kv_head_of_odd_size": (PP2,),
    "mistral_window": (TP2,),
    "qwen2": (TP2,),
    "qwen3": (TP2, BOTH),
    "gemma2": (TP2, PP2),
    "gpt2": (PP2,),
}
"""Variant -> how it is divided; the vocabulary of 101 tokens never comes out even."""


@pytest.mark.parametrize("variant", OF_TWO)
def test_families(implementation: str, tmp_path: Path, variant: str) -> None:
    family, changes = VARIANTS[variant]
    build(tmp_path, family, **changes)
    assert_divisible(tmp_path, *OF_TWO[variant])


def test_more_ranks_than_kv_heads(implementation: str, tmp_path: Path) -> None:
    build(tmp_path, "Llama", num_attention_heads=8, num_key_value_heads=2, num_hidden_layers=3)
    assert_divisible(tmp_path, Parallel(tp_size=4), Parallel(tp_size=8), Parallel(tp_size=4, pp_partition=[1, 2]))


def test_three_ranks_and_uneven_layers(implementation: str, tmp_path: Path) -> None:
    family, changes = VARIANTS["gemma3"]
    sizes = {"num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 81}
    build(tmp_path, family, **{**changes, **sizes})
    assert_divisible(tmp_path, Parallel(tp_size=3), Parallel(tp_size=3, pp_partition=[4, 1, 2]))


def test_gpt2_in_thirds(implementation: str, tmp_path: Path) -> None:
    build(tmp_path, "GPT2", n_inner=99)
    assert_divisible(tmp_path, Parallel(tp_size=3), Parallel(tp_size=3, pp_partition=[1, 1]))


@pytest.mark.parametrize("variant", ["mixtral", "qwen3_moe_dense_layer"])
def test_experts(implementation: str, tmp_path: Path, variant: str) -> None:
    family, changes = VARIANTS[variant]
    count = {"num_local_experts" if family == "Mixtral" else "num_experts": 4}
    build(tmp_path, family, **{**changes, **count, "num_attention_heads": 4, "num_key_value_heads": 2})
    tp4 = {"tp_size": 4}
    assert_divisible(
        tmp_path,
        TP2,
        Parallel(**tp4, moe_tp_size=2, moe_ep_size=2),
        Parallel(**tp4, moe_ep_size=4),
        Parallel(**tp4, moe_tp_size=4),
        BOTH,
    )


@pytest.mark.parametrize("variant", ["llama_untied", "mixtral", "qwen3_moe_dense_layer"])
def test_attention_data_parallelism(implementation: str, tmp_path: Path, variant: str) -> None:
    family, changes = VARIANTS[variant]
    count = {"num_local_experts": 4} if family == "Mixtral" else {"num_experts": 4} if "num_experts" in changes else {}
    build(tmp_path, family, **{**changes, **count})
    assert_divisible(
        tmp_path,
        Parallel(tp_size=2, moe_ep_size=2, attention_dp=True),
        Parallel(tp_size=2, moe_tp_size=2, attention_dp=True, pp_partition=[1, 1]),
        Parallel(tp_size=4, moe_tp_size=2, moe_ep_size=2, attention_dp=True),
    )


def test_int8(implementation: str, tmp_path: Path) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 32}
    build(tmp_path, "Llama", **sizes, initializer_range=0.1)
    near = said(tmp_path, TP2, quantization="int8")
    for got, wanted in zip(near, said(tmp_path, ONE_RANK, quantization="int8"), strict=True):
        assert not len(wanted) or (got - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_an_error_of_another_rank_is_an_error_of_the_step(implementation: str, tmp_path: Path) -> None:
    build(tmp_path, "Llama")
    with drive_ranks(tmp_path, TP2) as driver:
        driver.world.stages[0].barrier.abort()
        with pytest.raises(BrokenBarrierError):
            driver.run(driver.chunk(driver.add(), TOKENS[:5]))


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["llama_groups_of_three", "gpt2", "mixtral", "gemma2"])
@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q8_0], ids=str)
def test_shares_of_a_gguf_file(tmp_path: Path, variant: str, kind: gguf.GGMLQuantizationType) -> None:
    family, changes = VARIANTS[variant]
    usual = {"hidden_size": 288, "intermediate_size": 96, "head_dim": 32}
    build(tmp_path, family, **{**changes, **({"n_embd": 96} if family == "GPT2" else usual)})
    path = write_gguf(tmp_path, tmp_path / "model.gguf", kind=kind)
    tp_size = 2 if family in {"Mixtral", "Gemma2"} else 3
    assert_divisible(path, Parallel(tp_size=tp_size, moe_tp_size=tp_size, pp_partition=[1, 1]))


@pytest.fixture
def bytes_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each tensor, or part of one, that is read."""
    sizes: list[int] = []
    read = SafetensorsWeights.read

    def counted(self: SafetensorsWeights, name: str, part: Part | None = None) -> Tensor:
        tensor = read(self, name, part)
        sizes.append(tensor.nbytes)
        return tensor

    monkeypatch.setattr(SafetensorsWeights, "read", counted)
    return sizes


@pytest.mark.parametrize("parallel", [TP2, PP2, BOTH, Parallel(tp_size=2, moe_ep_size=2, attention_dp=True)], ids=str)
def test_a_rank_reads_its_share_and_no_more(tmp_path: Path, bytes_read: list[int], parallel: Parallel) -> None:
    family, changes = VARIANTS["mixtral"]
    build(tmp_path, family, **changes)
    dims, here = read_dimensions(files_at(tmp_path)), Backend(torch.float32, torch.device("cpu"))
    for rank in range(parallel.num_ranks):
        bytes_read.clear()
        load_decoder(str(tmp_path), dims, here, num_positions=64, parallel=parallel, rank=rank)
        norms = 4 * 5 * dims.hidden_size
        share = weight_bytes_of_rank(dims, "float32", "none", parallel, rank)
        assert share - norms <= sum(bytes_read) <= share + norms


def test_a_tensor_that_no_rank_has_is_named(tmp_path: Path) -> None:
    build(tmp_path, "Llama")
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), "model.layers.1.self_attn.g_proj.weight": torch.ones(1)}, file)
    with pytest.raises(StartupError, match=r"does not have: model\.layers\.1\.self_attn\.g_proj\.weight"):
        said(tmp_path, PP2)
