"""Conversations of prompts that say nothing: their lengths are what matters.

Conversation i is drawn from (seed, i) alone, so it is the same however many others there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random

import msgspec

from trtdisagg.bench.workloads.lengths import Lengths
from trtdisagg.bench.workloads.prompts import NOTHING, Draft, Prompts
from trtdisagg.bench.workloads.scripted import Turn


class Synthetic(msgspec.Struct, frozen=True, kw_only=True):
    """
    :param isl: what each turn of the user adds.
    :param prefix_len: tokens that come before the first turn, on top of its own; 0: none.
    :param num_prefixes: so many different ones, taken in turn.
    """

    prompts: Prompts
    isl: Lengths
    osl: Lengths
    seed: int = 0
    prefix_len: int = 0
    num_prefixes: int = 1
    num_turns: int = 1

    def scripts(self) -> Iterator[list[Turn]]:
        """Without end."""
        prefixes = [self._prefix(i) for i in range(self.num_prefixes)]
        for number in itertools.count():
            random = Random(f"{self.seed}:{number}")
            first = self._turn(random, after=prefixes[number % self.num_prefixes])
            yield [first, *(self._turn(random) for _ in range(self.num_turns - 1))]

    def _prefix(self, number: int) -> Draft:
        if not self.prefix_len:
            return NOTHING
        return self.prompts.draw(Random(f"{self.seed}:prefix:{number}"), self.prefix_len)

    def _turn(self, random: Random, after: Draft = NOTHING) -> Turn:
        draft = self.prompts.draw(random, self.isl.draw(random), after)
        return Turn(
            prompt=self.prompts.prompt(draft),
            num_input_tokens=draft.num_tokens,
            max_tokens=self.osl.draw(random),
        )
