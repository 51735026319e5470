"""Logits of random models of every family equal those of transformers, however a prompt is cut, and in any company."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from helpers.families import TOKENS, VARIANTS, build, reference
from helpers.gguf_files import write_gguf
from helpers.tiny_runner import drive
from safetensors.torch import load_file, save_file
from torch import Tensor

from trtdisagg.cache import native
from trtdisagg.engine import backend

NEAR = {"atol": 2e-4, "rtol": 0}
PIECES = (1, 7, 1, 1, 30, 64, 1)
NOT_IN_GGUF = {
    "llama_llama3_scaling": "there the frequencies are divided by a tensor: test_weights.py",
    "llama_dynamic_scaling": "the conversion does not write it",
    "llama_yarn_in_detail": "nor these keys, in the version whose names are read",
    "mistral_window": "a window of all layers has no key",
    "mixtral_window": "likewise",
    "qwen2_windows": "likewise",
    "qwen3_moe_dense_layer": "llama.cpp has experts in all layers, with weights that sum to 1",
    "gemma3_scaled": "its pattern of layers has no key",
    "gpt2_wide": "the activation has no key",
}
GGUF_CHANGES = {"Gemma2": {"query_pre_attn_scalar": 12}, "Gemma3": {"query_pre_attn_scalar": 12}}
"""There scores are divided by the root of `head_dim`."""


@pytest.fixture(params=["native", "torch"])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "torch":
        monkeypatch.setattr(backend, "extension", lambda: None)
    elif native.extension() is None:
        pytest.skip("the C++ extension is not built")
    return request.param


def in_pieces(path: Path) -> Tensor:
    """Logits of the last token of each piece."""
    with drive(path, num_threads=1) as driver:
        sequence, end, rows = driver.add(), 0, []
        for size in PIECES:
            rows.append(driver.step((sequence, TOKENS[end : end + size])))
            end += size
    return torch.cat(rows)


def expected(model: object) -> Tensor:
    ends = torch.tensor(PIECES).cumsum(0) - 1
    return reference(model, TOKENS[: sum(PIECES)])[ends]


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_in_odd_pieces(variant: str, implementation: str, tmp_path: Path) -> None:
    family, changes = VARIANTS[variant]
    theirs, ours = expected(build(tmp_path, family, **changes)), in_pieces(tmp_path)
    torch.testing.assert_close(ours, theirs, **NEAR)
    assert torch.equal(ours.argmax(-1), theirs.argmax(-1))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in NOT_IN_GGUF])
def test_every_family_from_gguf(variant: str, tmp_path: Path) -> None:
    family, changes = VARIANTS[variant]
    model = build(tmp_path, family, **{**changes, **GGUF_CHANGES.get(family, {})})
    path = write_gguf(tmp_path, tmp_path / "model.gguf")
    torch.testing.assert_close(in_pieces(path), expected(model), **NEAR)


@pytest.mark.parametrize("variant", ["gemma3", "gpt2", "mixtral"])
def test_several_files(variant: str, tmp_path: Path) -> None:
    family, changes = VARIANTS[variant]
    model = build(tmp_path, family, max_shard_size="30KB", **changes)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    torch.testing.assert_close(in_pieces(tmp_path), expected(model), **NEAR)


@pytest.mark.parametrize(
    ("variant", "prefix", "architecture"),
    [
        ("gpt2", ("transformer.", ""), "GPT2LMHeadModel"),
        ("gemma3", ("model.", "language_model.model."), "Gemma3ForConditionalGeneration"),
        ("gemma3", ("model.", "model.language_model."), "Gemma3ForConditionalGeneration"),
    ],
)
def test_checkpoints_that_name_things_otherwise(
    variant: str, prefix: tuple[str, str], architecture: str, tmp_path: Path
) -> None:
    family, changes = VARIANTS[variant]
    model = build(tmp_path, family, **changes)
    file, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    tensors = {name.replace(*prefix, 1): tensor for name, tensor in load_file(file).items()}
    more = {"vision_tower.x.weight": torch.ones(2), "model.multi_modal_projector.weight": torch.ones(2)}
    masks = {"h.0.attn.bias": torch.ones(1, 1, 4, 4), "h.1.attn.masked_bias": torch.tensor(-1e4)}
    save_file({**tensors, **(masks if family == "GPT2" else more)}, file)
    said = json.loads(config.read_text())
    nested = said if family == "GPT2" else {"text_config": said, "vision_config": {"hidden_size": 8}}
    config.write_text(json.dumps({**nested, "architectures": [architecture]}))
    torch.testing.assert_close(in_pieces(tmp_path), expected(model), **NEAR)


@pytest.mark.parametrize("tokens_per_block", [8, 16, 32, 64, 128])
def test_every_block_size_in_mixed_steps(tokens_per_block: int, implementation: str, tmp_path: Path) -> None:
    model = build(tmp_path, "Llama")
    prompts = [TOKENS[i : i + n] for i, n in enumerate((40, 9, 130, 1, 77))]
    expected = [reference(model, p) for p in prompts]
    with drive(tmp_path, tokens_per_block=tokens_per_block, num_threads=1) as driver:
        ends = {driver.add(): 0 for _ in prompts}
        for sizes in ((33, 1, 0, 1, 50), (1, 7, 129, 0, 1), (6, 1, 1, 0, 26)):
            work = [(s, prompts[s][ends[s] : ends[s] + n]) for s, n in enumerate(sizes) if n]
            logits = driver.step(*work)
            for row, (s, tokens) in zip(logits, work, strict=True):
                ends[s] += len(tokens)
                torch.testing.assert_close(row, expected[s][ends[s] - 1], **NEAR)
        assert [ends[s] for s in sorted(ends)] == [len(p) for p in prompts]


def test_only_wanted_rows_come_back_in_order(implementation: str, tmp_path: Path) -> None:
    model = build(tmp_path, "Llama")
    with drive(tmp_path, num_threads=1) as driver:
        a, b, c = driver.add(), driver.add(), driver.add()
        none = driver.run(driver.chunk(a, TOKENS[:5], num_logits=0))
        assert none.shape == (0, 101)
        chunks = (driver.chunk(b, TOKENS[:9]), driver.chunk(a, TOKENS[5:8], num_logits=0), driver.chunk(c, [7]))
        logits = driver.run(*chunks)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(
        logits, torch.stack([reference(model, TOKENS[:9])[-1], reference(model, [7])[-1]]), **NEAR
    )


def test_bfloat16_stays_near_float32(implementation: str, tmp_path: Path) -> None:
    expected = reference(build(tmp_path, "Llama", initializer_range=0.05), TOKENS[:100])
    with drive(tmp_path, dtype="bfloat16") as driver:
        sequence = driver.add()
        prefill = driver.step((sequence, TOKENS[:99]))
        decode = driver.step((sequence, TOKENS[99:100]))
    scale = expected.abs().max()
    assert (prefill[0] - expected[98]).abs().max() < 0.03 * scale
    assert (decode[0] - expected[99]).abs().max() < 0.03 * scale
