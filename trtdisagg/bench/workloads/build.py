"""From what the user wants to a workload, with what he should be told of it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from trtdisagg.bench.serve.asked import Workload
from trtdisagg.bench.serve.load import Endpoint
from trtdisagg.bench.workloads.dataset import Dataset, read_dataset
from trtdisagg.bench.workloads.lengths import parse_lengths
from trtdisagg.bench.workloads.prompts import ExactText, PlainWords, Prompts, TokenIds
from trtdisagg.bench.workloads.recorded import Recorded
from trtdisagg.bench.workloads.scripted import Scripted
from trtdisagg.bench.workloads.synthetic import Synthetic
from trtdisagg.bench.workloads.vocabulary import Vocabulary, load_vocabulary, local_vocabulary
from trtdisagg.errors import ConfigError

DEFAULT_LENGTH = "128"
"""Of prompts and answers."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the user said. None: nothing.

    :raises ConfigError: when it contradicts itself.
    """

    isl: str | None = None
    osl: str | None = None
    prefix_len: int = 0
    num_prefixes: int = 1
    dataset: Path | None = None
    max_input_len: int | None = None
    """Longer prompts of the dataset are left out."""
    turns: int = 1
    think_s: float = 0.0
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if self.dataset and (self.isl is not None or self.prefix_len):
            raise ConfigError("--isl and --prefix-len are about prompts that are made up; with --dataset they are read")
        if self.max_input_len is not None and not self.dataset:
            raise ConfigError("--max-input-len leaves out prompts of a --dataset; those made up have --isl tokens")
        if self.num_prefixes > 1 and not self.prefix_len:
            raise ConfigError("--num-prefixes needs --prefix-len")
        if self.think_s and self.turns == 1:
            raise ConfigError("--think-time is between turns: give --turns")


class Built(msgspec.Struct, frozen=True):
    """A workload."""

    workload: Workload
    words: str
    """What it is, in a line."""
    warnings: list[str] = []
    """What makes its figures less than exact."""


def build_workload(
    wanted: Wanted, *, endpoint: Endpoint, seed: int, model: str | None = None, num_asked: int = 0
) -> Built:
    """
    :param model: whose tokenizer is taken where none is named and it lies on this machine.
    :param num_asked: conversations that will be; more than a dataset has are worth a warning.
    :raises ConfigError: when it cannot be asked so, or a file is wrong.
    :raises StartupError: when the tokenizer that was named cannot be found.
    """
    if wanted.turns > 1 and endpoint == "completions":
        raise ConfigError("Conversations of several turns are chats: give --endpoint chat")
    if wanted.tokenizer:
        vocabulary: Vocabulary | None = load_vocabulary(wanted.tokenizer)
    else:
        vocabulary = local_vocabulary(model) if model else None
    if wanted.dataset:
        dataset = read_dataset(wanted.dataset)
        built = _recorded(wanted, dataset, endpoint, vocabulary, seed)
        return msgspec.structs.replace(built, warnings=_about_repeats(dataset, num_asked))
    return _synthetic(wanted, endpoint, vocabulary, seed)


# --- made up --------------------------------------------------------------------------------------------------------


def _synthetic(wanted: Wanted, endpoint: Endpoint, vocabulary: Vocabulary | None, seed: int) -> Built:
    prompts, warnings = _prompts(endpoint, vocabulary, is_named=wanted.tokenizer is not None)
    isl, osl = wanted.isl or DEFAULT_LENGTH, wanted.osl or DEFAULT_LENGTH
    synthetic = Synthetic(
        prompts=prompts,
        isl=parse_lengths(isl),
        osl=parse_lengths(osl),
        seed=seed,
        prefix_len=wanted.prefix_len,
        num_prefixes=wanted.num_prefixes,
        num_turns=wanted.turns,
    )
    prefix = f" behind one of {wanted.num_prefixes} prefixes of {wanted.prefix_len}" if wanted.prefix_len else ""
    turns = f", {wanted.turns} turns" if wanted.turns > 1 else ""
    words = f"ISL {isl}{prefix}, OSL {osl}{turns}"
    return Built(Scripted(synthetic.scripts, think_s=wanted.think_s), words, warnings)


def _prompts(endpoint: Endpoint, vocabulary: Vocabulary | None, *, is_named: bool) -> tuple[Prompts, list[str]]:
    is_message = endpoint == "chat"
    if vocabulary is not None:
        try:
            return ExactText(vocabulary, is_message=is_message), []
        except ConfigError:
            if is_named:
                raise
    if is_message:
        return PlainWords(), [
            "The model's tokenizer is not here (--tokenizer): prompts have about as many tokens as was asked for"
        ]
    return TokenIds(), ["The model's tokenizer is not here (--tokenizer): prompts are random token ids, not text"]


# --- from a file ----------------------------------------------------------------------------------------------------


def _recorded(wanted: Wanted, dataset: Dataset, endpoint: Endpoint, vocabulary: Vocabulary | None, seed: int) -> Built:
    recorded = Recorded(
        dataset=dataset,
        endpoint=endpoint,
        vocabulary=vocabulary,
        osl=parse_lengths(wanted.osl) if wanted.osl else None,
        seed=seed,
        num_turns=wanted.turns,
        max_input_len=wanted.max_input_len,
    )
    skipped = f", {dataset.num_skipped:,} without a question left out" if dataset.num_skipped else ""
    osl = f"OSL {wanted.osl}" if wanted.osl else "OSL as recorded there"
    words = f"{dataset.file}: {len(dataset.entries):,} conversations ({dataset.form}{skipped}), {osl}"
    workload = Scripted(recorded.scripts, think_s=wanted.think_s)
    return Built(workload, words)


def _about_repeats(dataset: Dataset, num_asked: int) -> list[str]:
    if num_asked <= len(dataset.entries):
        return []
    return [
        f"{dataset.file} has {len(dataset.entries)} conversations of the {num_asked} that are asked: "
        "they come again, and servers may have them in their caches"
    ]
