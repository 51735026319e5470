"""A tiny Llama with random weights, small enough to build in each test, and transformers' word for what it says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.executor import Executor
from trtdisagg.engine.limits import Limits
from trtdisagg.engine.runner import ModelRunner
from trtdisagg.protocol.handover import KvShape
from trtdisagg.text.dimensions import read_dimensions
from trtdisagg.text.model_files import files_at

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

VOCAB_SIZE = 211


def build(directory: Path, seed: int = 0) -> LlamaForCausalLM:
    """Save one in `directory`, and return it. Its weights are large, so that no two logits are nearly the same."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=None,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(directory)
    return model


def greedy(model: LlamaForCausalLM, prompt: Sequence[int], max_tokens: int) -> list[int]:
    """What transformers generates."""
    ids = torch.tensor([list(prompt)])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, use_cache=True
    )
    tokens: list[int] = output[0, len(prompt) :].tolist()
    return tokens


@contextmanager
def open_executor(
    directory: Path, *, tokens_per_block: int = 8, num_blocks: int = 64, max_num_tokens: int = 24, **fields: Any
) -> Iterator[tuple[Executor, KvPool]]:
    """The real engine over the model in `directory`, in float32.

    :param fields: of the Executor.
    """
    dims = read_dimensions(files_at(directory))
    shape = KvShape(
        model=dims.fingerprint,
        dtype="float32",
        num_layers=dims.num_layers,
        num_kv_heads=dims.num_kv_heads,
        head_dim=dims.head_dim,
        tokens_per_block=tokens_per_block,
    )
    limits = Limits(
        max_batch_size=8,
        max_num_tokens=max_num_tokens,
        max_seq_len=dims.max_positions,
        num_blocks=num_blocks,
        tokens_per_block=tokens_per_block,
        vocab_size=dims.vocab_size,
    )
    with KvPool(shape, num_blocks) as pool:
        runner = ModelRunner(str(directory), dims, dtype="float32", pool=pool)
        runner.load()
        with Executor(runner=runner, limits=limits, **fields) as executor:
            yield executor, pool
