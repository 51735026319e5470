"""A step shows that it goes on, several times a layer."""

from __future__ import annotations

from pathlib import Path

from helpers import tiny_model
from helpers.tiny_runner import kv_shape

from trtdisagg.cache.pool import KvPool
from trtdisagg.engine.progress import Progress
from trtdisagg.engine.runner import ModelRunner
from trtdisagg.engine.step import Chunk, Step
from trtdisagg.text.dimensions import read_dimensions
from trtdisagg.text.model_files import files_at


def test_a_step_ticks_in_each_layer(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "tiny")
    dims = read_dimensions(files_at(path))
    progress = Progress()
    with KvPool(kv_shape(dims, 8), 4) as pool:
        runner = ModelRunner(str(path), dims, dtype="float32", pool=pool, progress=progress)
        runner.load()
        before = progress.num_ticks
        runner.run(Step([Chunk([1, 2, 3], 0, [0], num_logits=1)]))
        assert progress.num_ticks - before >= 4 * dims.num_layers
    assert progress.silence_s < 60


def test_what_others_count_is_progress() -> None:
    progress, counts = Progress(), iter([3, 3, 5, 5])
    progress.add(lambda: next(counts))
    assert progress.num_ticks == 3
    assert progress.silence_s < 60
    progress.tick()
    assert progress.num_ticks == 6
