"""Computes steps: holds the weights, the KV pool and the attention over it, and turns a step into logits.

Which tokens and which blocks is the scheduler's to decide; what becomes of the logits is the sampler's.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from trtdisagg.cache.pool import DTYPES, KvPool
from trtdisagg.engine.attention import make_attention
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.models import MODELS
from trtdisagg.engine.models.weights import open_weights
from trtdisagg.engine.progress import Progress
from trtdisagg.engine.rotary import rotary_tables
from trtdisagg.engine.step import Step
from trtdisagg.protocol.spec import Dtype
from trtdisagg.text.dimensions import ModelDimensions


class ModelRunner:
    """One rank's model. `load` first, then `run` from one thread at a time.

    :param path: a directory with safetensors, or a .gguf file.
    :param pool: open while the runner is used; its device is the model's.
    :param num_threads: for everything that is computed on the CPU; torch's own setting is changed to it.
    :param progress: ticked several times a layer.
    """

    def __init__(
        self,
        path: str,
        dims: ModelDimensions,
        *,
        dtype: Dtype,
        pool: KvPool,
        num_threads: int = 1,
        progress: Progress | None = None,
    ) -> None:
        self._path = path
        self._dims = dims
        self._dtype = DTYPES[dtype]
        self._pool = pool
        self._num_threads = num_threads
        self._progress = progress or Progress()

    def load(self) -> None:
        """Read the weights and set up the attention.

        :raises StartupError: when the weights are missing, damaged or of another model.
        :raises ConfigError: when the model needs something that is not supported.
        """
        backend = Backend(self._dtype, self._pool.device, self._num_threads, self._progress)
        backend.open()
        self._model = MODELS[self._dims.architecture](self._dims, backend)
        with torch.inference_mode(), open_weights(self._path, self._dims) as source:
            self._model.load(source)
        num_positions = min(self._dims.max_positions, self._pool.num_blocks * self._pool.shape.tokens_per_block)
        tables = rotary_tables(self._dims, num_positions, device=backend.device, factors=self._model.rope_factors)
        self._attention = make_attention(backend, self._pool, tables, num_heads=self._dims.num_heads)

    def run(self, step: Step) -> Tensor:
        """Write the KV of all chunks and give logits.

        :return: float32 [sum of `num_logits`, vocab_size], in order.
        """
        device = self._pool.device
        ends = accumulate(len(chunk.tokens) for chunk in step.chunks)
        wanted = [r for end, c in zip(ends, step.chunks, strict=True) for r in range(end - c.num_logits, end)]
        with torch.inference_mode():
            for source, target in step.copies:
                self._pool.tensor[target].copy_(self._pool.tensor[source])
            tokens = torch.tensor([t for chunk in step.chunks for t in chunk.tokens], device=device)
            rows = torch.tensor(wanted, dtype=torch.long, device=device)
            self._attention.begin(step.chunks)
            return self._model.forward(tokens, rows, self._attention)
