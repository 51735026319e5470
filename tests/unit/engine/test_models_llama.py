"""Logits of random Llamas equal those of transformers, however a prompt is cut and whoever else is in the step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_runner import drive
from torch import Tensor

from trtdisagg.cache import native
from trtdisagg.engine import backend

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "groups_of_three": {"hidden_size": 72, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 16},
    "untied": {"tie_word_embeddings": False},
    "llama3_scaling": {"rope_scaling": LLAMA3, "rope_theta": 500.0},
    "linear_scaling": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "one_kv_head_of_odd_size": {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 22},
}
TOKENS = [(37 * i * i + 11 * i + 3) % 101 for i in range(150)]


def build(directory: Path, **changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 101, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    plain = {"max_position_embeddings": 512, "tie_word_embeddings": True, "initializer_range": 0.2}
    model = LlamaForCausalLM(LlamaConfig(**{**sizes, **heads, **plain, **changes})).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter.data, mean=float("norm" in name), std=0.2)
    model.save_pretrained(directory)
    return model


def reference(model: Any, tokens: list[int]) -> Tensor:
    """Logits of all positions, [len(tokens), vocab]."""
    with torch.inference_mode():
        logits: Tensor = model(torch.tensor([tokens])).logits[0].float()
    return logits


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


@pytest.fixture(params=["native", "torch"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "torch":
        monkeypatch.setattr(backend, "extension", lambda: None)
    elif native.extension() is None:
        pytest.skip("the C++ extension is not built")
    return request.param


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_in_odd_pieces(variant: str, implementation: str, tmp_path: Path) -> None:
    expected = reference(build(tmp_path, **VARIANTS[variant]), TOKENS)
    with drive(tmp_path) as driver:
        sequence, end = driver.add(), 0
        for size in (1, 7, 1, 1, 30, 64, 1):
            logits = driver.step((sequence, TOKENS[end : end + size]))
            end += size
            assert_close(logits, expected[end - 1 : end])


@pytest.mark.parametrize("tokens_per_block", [8, 16, 32, 64, 128])
def test_every_block_size_in_mixed_steps(tokens_per_block: int, implementation: str, tmp_path: Path) -> None:
    model = build(tmp_path)
    prompts = [TOKENS[i : i + n] for i, n in enumerate((40, 9, 130, 1, 77))]
    expected = [reference(model, p) for p in prompts]
    with drive(tmp_path, tokens_per_block=tokens_per_block) as driver:
        ends = {driver.add(): 0 for _ in prompts}
        for sizes in ((33, 1, 0, 1, 50), (1, 7, 129, 0, 1), (6, 1, 1, 0, 26)):
            work = [(s, prompts[s][ends[s] : ends[s] + n]) for s, n in enumerate(sizes) if n]
            logits = driver.step(*work)
            for row, (s, tokens) in zip(logits, work, strict=True):
                ends[s] += len(tokens)
                assert_close(row, expected[s][ends[s] - 1])
        assert [ends[s] for s in sorted(ends)] == [len(p) for p in prompts]


def test_only_wanted_rows_come_back_in_order(implementation: str, tmp_path: Path) -> None:
    model = build(tmp_path)
    with drive(tmp_path) as driver:
        a, b, c = driver.add(), driver.add(), driver.add()
        none = driver.run(driver.chunk(a, TOKENS[:5], num_logits=0))
        assert none.shape == (0, 101)
        chunks = (driver.chunk(b, TOKENS[:9]), driver.chunk(a, TOKENS[5:8], num_logits=0), driver.chunk(c, [7]))
        logits = driver.run(*chunks)
    assert logits.dtype == torch.float32
    assert_close(logits, torch.stack([reference(model, TOKENS[:9])[-1], reference(model, [7])[-1]]))


def test_bfloat16_stays_near_float32(implementation: str, tmp_path: Path) -> None:
    expected = reference(build(tmp_path, initializer_range=0.05), TOKENS[:100])
    with drive(tmp_path, dtype="bfloat16") as driver:
        sequence = driver.add()
        prefill = driver.step((sequence, TOKENS[:99]))
        decode = driver.step((sequence, TOKENS[99:100]))
    scale = expected.abs().max()
    assert (prefill[0] - expected[98]).abs().max() < 0.03 * scale
    assert (decode[0] - expected[99]).abs().max() < 0.03 * scale
