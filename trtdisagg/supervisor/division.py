"""How a section of the cluster file divides its model among the ranks of a server. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from trtdisagg.config.server_keys import ServerSection
from trtdisagg.errors import ConfigError
from trtdisagg.protocol.parallel import Parallel, even_partition
from trtdisagg.text.dimensions import ModelDimensions
from trtdisagg.text.dimensions.share import division_problems, weight_bytes_of_rank

_DERIVED = (None, -1)


class Divided(msgspec.Struct, frozen=True):
    """A model, and how the ranks of a server divide it."""

    dimensions: ModelDimensions | None
    """None: not known here."""
    parallel: Parallel

    def rank_weights(self, dtype: str, quantization: str) -> list[int]:
        """Bytes of the weights of each rank; 0: not known."""
        ranks = range(self.parallel.num_ranks)
        if self.dimensions is None:
            return [0 for _ in ranks]
        return [weight_bytes_of_rank(self.dimensions, dtype, quantization, self.parallel, rank) for rank in ranks]


def num_ranks(section: ServerSection) -> int:
    return section.tensor_parallel_size * section.pipeline_parallel_size


def parallel_of(section: ServerSection, model: ModelDimensions | None, path: str) -> Parallel:
    """The division that a section asks for.

    :param model: None: not known here; then nothing is checked, and a stage counts as one layer.
    :param path: of the section, for messages.
    :raises ConfigError: the model cannot be divided like that, with every reason.
    """
    moe_tp, moe_ep = _experts(section)
    parallel = Parallel(
        tp_size=section.tensor_parallel_size,
        pp_partition=_stages(section, model),
        moe_tp_size=moe_tp,
        moe_ep_size=moe_ep,
        attention_dp=section.enable_attention_dp and section.tensor_parallel_size > 1,
    )
    if model is not None and (reasons := [*_problems(section, model), *division_problems(model, parallel)]):
        raise ConfigError(f"{path}: the model cannot be divided like this: {'; '.join(reasons)}")
    return parallel


def _stages(section: ServerSection, model: ModelDimensions | None) -> list[int]:
    pp_size = section.pipeline_parallel_size
    if pp_size == 1:
        return []
    return section.pp_partition or even_partition(model.num_layers if model else pp_size, pp_size)


def _experts(section: ServerSection) -> tuple[int, int]:
    """What the file leaves open of the two follows from the other; of both: each expert is divided by all ranks."""
    tp_size, moe_tp, moe_ep = (
        section.tensor_parallel_size,
        section.moe_tensor_parallel_size,
        section.moe_expert_parallel_size,
    )
    if moe_tp in _DERIVED:
        moe_ep = 1 if moe_ep in _DERIVED else moe_ep
        return max(1, tp_size // moe_ep), moe_ep
    return moe_tp, max(1, tp_size // moe_tp) if moe_ep in _DERIVED else moe_ep


def _problems(section: ServerSection, model: ModelDimensions) -> Iterator[str]:
    """Those that only the file's own words explain."""
    if section.pipeline_parallel_size > model.num_layers:
        yield f"its {model.num_layers} layers are fewer than pipeline_parallel_size {section.pipeline_parallel_size}"
    for key in ("moe_tensor_parallel_size", "moe_expert_parallel_size"):
        if not model.num_experts and (getattr(section, key) or 1) > 1:
            yield f"{key} {getattr(section, key)}: it has no experts"
