"""Holds a rank's model and hands steps to whatever computes it fastest.

Which tokens and which blocks is the scheduler's to decide; what becomes of the logits is the sampler's.
"""

from __future__ import annotations

from torch import Tensor

from trtdisagg.cache.pool import DTYPES, KvPool
from trtdisagg.engine.ahead import AheadRunner
from trtdisagg.engine.backend import Backend
from trtdisagg.engine.interfaces import Runner
from trtdisagg.engine.models.decoder import Decoder
from trtdisagg.engine.models.load import load_decoder
from trtdisagg.engine.native_decoder import NativeDecoder
from trtdisagg.engine.progress import Progress
from trtdisagg.engine.ranks import Ranks
from trtdisagg.engine.step import Step
from trtdisagg.engine.torch_decoder import TorchDecoder
from trtdisagg.protocol.parallel import ONE_RANK, Parallel
from trtdisagg.protocol.spec import Dtype, Quantization
from trtdisagg.text.dimensions import ModelDimensions


class ModelRunner:
    """One rank's model. `load` first, then `run` from one thread at a time.

    :param path: a directory with safetensors, or a .gguf file.
    :param pool: open while the runner is used; its device is the model's. It has this rank's layers and KV heads.
    :param num_threads: for everything that is computed on the CPU; torch's own setting is changed to it.
    :param progress: ticked several times a layer.
    :param max_batch_size: on a CUDA device, so many sequences of at most `max_seq_len` tokens are computed by a graph
        when each has one token; 0: none.
    :param parallel: how the server divides the model, of which this is the share of `rank`.
    :param ranks: the other ranks, which are given the same steps; None: there are none.
    """

    def __init__(
        self,
        path: str,
        dims: ModelDimensions,
        *,
        dtype: Dtype,
        quantization: Quantization = "none",
        pool: KvPool,
        num_threads: int = 1,
        progress: Progress | None = None,
        max_batch_size: int = 0,
        max_seq_len: int = 0,
        parallel: Parallel = ONE_RANK,
        rank: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        self._path = path
        self._dims = dims
        self._dtype = DTYPES[dtype]
        self._quantization = quantization
        self._pool = pool
        self._num_threads = num_threads
        self._progress = progress or Progress()
        self._max_batch_size = max_batch_size
        self._max_seq_len = max_seq_len
        self._parallel = parallel
        self._rank = rank
        self._ranks = ranks
        self.workers: object = None
        """The extension's threads, once it is loaded; None: there are none on this device."""
        self.ahead: AheadRunner | None = None
        """What launches steps whose tokens are still on the device, once it is loaded; None: nothing here."""

    def load(self) -> None:
        """Read the weights.

        :raises StartupError: when the weights are missing, damaged or of another model.
        :raises ConfigError: when the model needs something that is not supported.
        """
        backend = Backend(self._dtype, self._pool.device, self._num_threads, self._progress)
        backend.open()
        self.workers = backend.workers
        num_positions = self._pool.num_blocks * self._pool.shape.tokens_per_block
        decoder = load_decoder(
            self._path,
            self._dims,
            backend,
            num_positions=num_positions,
            quantization=self._quantization,
            parallel=self._parallel,
            rank=self._rank,
        )
        self._computer = self._fastest(decoder, backend)

    def run(self, step: Step) -> Tensor:
        """Write the KV of all chunks and give logits.

        :return: float32 [sum of `num_logits`, vocab_size], in order; no rows on other ranks than 0.
        """
        return self._computer.run(step)

    def _fastest(self, decoder: Decoder, backend: Backend) -> Runner:
        if backend.device.type == "cuda":
            from trtdisagg.engine.cuda.decoder import CudaDecoder  # Triton is there only with torch's builds for CUDA

            computer = CudaDecoder(
                decoder,
                backend,
                self._pool,
                max_batch_size=self._max_batch_size,
                max_seq_len=self._max_seq_len,
                ranks=self._ranks,
            )
            computer.prepare()
            self.ahead = computer if self._ranks is None else None  # the others do not know what is guessed
            return computer
        if backend.csrc:
            return NativeDecoder(decoder, backend, self._pool, ranks=self._ranks)
        return TorchDecoder(decoder, backend, self._pool, self._ranks)
