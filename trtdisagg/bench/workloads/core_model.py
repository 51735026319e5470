"""The two loads of Triton's `benchmark_core_model`, and its table.

Numbers of requests, lengths and what is left out are as there. Prompts go to /v1/completions, a dataset's as text.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from random import Random

import msgspec

from trtdisagg.bench.serve.report import ServeReport
from trtdisagg.bench.workloads.dataset import read_dataset
from trtdisagg.bench.workloads.lengths import Normal
from trtdisagg.bench.workloads.prompts import TokenIds
from trtdisagg.bench.workloads.recorded import TOKENS_PER_WORD, Recorded
from trtdisagg.bench.workloads.scripted import Scripted, Turn
from trtdisagg.bench.workloads.vocabulary import Vocabulary
from trtdisagg.errors import ConfigError

NUM_WARMUPS = 10


class CoreModelLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked.

    :ivar workload: the requests that are measured, then those to warm up with, as far as there are any.
    :ivar tokens_per_word: of the dataset's prompts.
    """

    workload: Scripted
    num_prompts: int
    num_warmups: int
    tokens_per_word: float | None = None


def dataset_load(
    file: Path,
    vocabulary: Vocabulary,
    *,
    num_requests: int,
    max_input_len: int | None,
    tokens_per_word: float = TOKENS_PER_WORD,
) -> CoreModelLoad:
    """The first requests of a file.

    :param max_input_len: longer prompts are left out.
    :param tokens_per_word: of recorded answers, which are not tokenized: so long are those asked for.
    :raises ConfigError: when there are none.
    """
    recorded = Recorded(
        dataset=read_dataset(file),
        endpoint="completions",
        vocabulary=vocabulary,
        max_input_len=max_input_len,
        tokens_per_word=tokens_per_word,
        counts_answers=False,
    )
    turns = [first for first, *_ in itertools.islice(recorded.once(), num_requests + NUM_WARMUPS)]
    num_words = sum(len(t.prompt.split()) for t in turns if isinstance(t.prompt, str))
    num_tokens = sum(t.num_input_tokens or 0 for t in turns if isinstance(t.prompt, str))
    return _load(turns, num_requests, str(file), tokens_per_word=num_tokens / num_words if num_words else None)


def norm_dist_load(
    isl: Normal, osl: Normal, *, num_requests: int, max_input_len: int | None, seed: int = 0
) -> CoreModelLoad:
    """Random token ids of normally distributed lengths; of `num_requests`, those that are too long are left out.

    :raises ConfigError: when all are.
    """
    turns = [_turn(Random(f"{seed}:{i}"), isl, osl) for i in range(num_requests + NUM_WARMUPS)]
    fits = [max_input_len is None or len(t.prompt) <= max_input_len for t in turns]
    return _load(list(itertools.compress(turns, fits)), sum(fits[:num_requests]), "the distribution")


def _turn(random: Random, isl: Normal, osl: Normal) -> Turn:
    draft = TokenIds().draw(random, isl.draw(random))
    return Turn(prompt=tuple(draft.pieces), num_input_tokens=draft.num_tokens, max_tokens=osl.draw(random))


def _load(turns: list[Turn], num_prompts: int, source: str, *, tokens_per_word: float | None = None) -> CoreModelLoad:
    num_prompts = min(num_prompts, len(turns))
    if not num_prompts:
        raise ConfigError(f"Of {source}, no prompt is as short as --max-input-len")
    return CoreModelLoad(
        workload=Scripted(lambda: iter([[t] for t in turns])),
        num_prompts=num_prompts,
        num_warmups=len(turns) - num_prompts,
        tokens_per_word=tokens_per_word,
    )


def core_model_stats(report: ServeReport) -> dict[str, float | None]:
    """The rows of the table, under the names that it has; None: there is nothing to tell."""
    return {
        "Requests/Sec": report.request_throughput,
        "OP tokens/sec": report.output_throughput,
        "Avg. latency (ms)": report.mean_e2el_ms,
        "P99 latency (ms)": report.p99_e2el_ms,
        "P90 latency (ms)": report.p90_e2el_ms,
        "Avg. IP tokens per request": _mean(report.total_input_tokens, report.completed),
        "Avg. OP tokens per request": _mean(report.total_output_tokens, report.completed),
        "Total latency (ms)": report.duration * 1000,
        "Total requests": report.completed,
    }


def _mean(total: int | None, number: int) -> float | None:
    return None if total is None or not number else total / number
