"""What `trtdisagg bench kv` measures, and what it finds.

trtdisagg bench kv  ->  python -m trtdisagg.cache.measure  ->  lines of JSON: stages, and a report at last

A pair of layouts is written `tp2-pp2`: from a context server of two tensor parallel ranks to a generation server of two
stages.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, get_args

import msgspec

from trtdisagg.protocol.parallel import Parallel, even_partition, problems
from trtdisagg.protocol.spec import Transport

ShapeName = Literal["llama-8b", "smollm2"]
Way = Literal["fetch", "copy", "piece", "descriptors"]
"""How bytes are moved: by the mover; copied within memory by the ranks that receive; by the transport alone, in one
piece from each rank; by the transport alone, in the same descriptors as the mover."""


class Shape(NamedTuple):
    """Of the KV of a model in bfloat16, and the pairs of layouts that tell something of it."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    pairs: tuple[str, ...]


SHAPES: dict[ShapeName, Shape] = {
    "llama-8b": Shape(32, 8, 128, ("tp1-tp1", "tp2-tp1", "tp1-tp2", "tp2-pp2", "pp2-tp2", "tp4-tp4")),
    "smollm2": Shape(30, 3, 64, ("tp1-tp1", "tp3-tp1", "tp1-tp3", "tp3-tp3", "tp1-pp2", "pp2-tp1", "tp3-pp2")),
}
TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
NUMS_OF_TOKENS = (256, 1024, 4096, 32768)
MAX_TOKENS = 65536
TOKENS_PER_BLOCK = 32


class KvMeasure(msgspec.Struct, kw_only=True, frozen=True):
    """What is to be measured."""

    models: tuple[ShapeName, ...] = tuple(SHAPES)
    pairs: tuple[str, ...] = ()
    """Empty: those of each shape."""
    transports: tuple[Transport, ...] = ()
    """Empty: those that work here."""
    nums_of_tokens: tuple[int, ...] = NUMS_OF_TOKENS
    num_rounds: int = 5
    """At least; short moves are repeated more often."""
    max_bytes: int = 512 << 20
    """Of the KV of one prompt; of a larger one the first layers are moved."""


class KvRow(msgspec.Struct, kw_only=True, frozen=True):
    """One prompt's KV from one server to another. Of all rounds the best counts, for what it is compared with, too:
    whatever else the machine does can only take from it."""

    model: ShapeName
    layout: str
    """`TP2->PP2`"""
    transport: Transport
    way: str
    """What the ranks chose when they met: `local pull`."""
    num_tokens: int
    num_layers: int
    """That were moved."""
    bytes: int
    descriptors: int
    gb_s: float
    latency_ms: float
    """From the first rank that begins to the last one that has its share."""
    median_ms: float
    first_ms: float | None = None
    """The first one after the servers have met; it is the largest prompt's."""
    memcpy_gb_s: float
    """A plain copy within memory, by as many threads as ranks receive."""
    transport_gb_s: float
    """The bare transport, one piece from each rank."""
    descriptors_gb_s: float
    """The bare transport, the same descriptors."""
    cpu_ms: float
    """That the ranks which receive spend on one move, all threads together: what decoding has less. It says something
    also where others use the cores, and the other figures do not."""
    memcpy_cpu_ms: float
    """Of the plain copy."""
    descriptors_cpu_ms: float
    """Of the bare transport with the same descriptors."""
    ratio_to_memcpy: float
    ratio_to_transport: float
    ratio_to_descriptors: float
    ratio_to_same_layout: float | None = None
    """Of `ratio_to_memcpy`, to that of one rank on both sides, where it was measured."""


class KvReport(msgspec.Struct, tag="kv_report", kw_only=True, frozen=True, omit_defaults=True):
    """What `--json` writes."""

    version: str
    measured: KvMeasure
    num_cores: int
    rows: list[KvRow]
    missing: dict[Transport, str] = {}
    """Transports that do not work here, with the reason."""


class Pair(NamedTuple):
    """Two servers."""

    context: Parallel
    generation: Parallel


_SIDE = r"(?=[tp]p)(?:tp([1-4]))?(?:pp([1-4]))?"
_PAIR = re.compile(f"{_SIDE}-{_SIDE}")


def parse_pair(words: str, name: ShapeName) -> Pair:
    """
    :param words: `tp2-pp2`
    :raises ValueError: when it is something else, or the shape cannot be divided like this.
    """
    if not (match := _PAIR.fullmatch(words)):
        raise ValueError(f"{words!r} is not a pair of layouts such as tp2-tp1 or tp2pp2-pp4")
    tp, pp, their_tp, their_pp = (int(group or 1) for group in match.groups())
    return Pair(_parallel(tp, pp, name), _parallel(their_tp, their_pp, name))


def label(words: str) -> str:
    """
    >>> label("tp2-pp2")
    'TP2->PP2'
    """
    return words.upper().replace("-", "->")


def _parallel(tp_size: int, pp_size: int, name: ShapeName) -> Parallel:
    shape = SHAPES[name]
    parallel = Parallel(tp_size=tp_size, pp_partition=even_partition(shape.num_layers, pp_size) if pp_size > 1 else [])
    found = problems(
        parallel,
        num_layers=shape.num_layers,
        num_heads=shape.num_kv_heads * tp_size,
        num_kv_heads=shape.num_kv_heads,
        inner_sizes=(),
    )
    if found:
        raise ValueError(f"{name}: {'; '.join(found)}")
    return parallel
