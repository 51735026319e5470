"""Guides without a grammar: which tokens may come depends on how many came, so that a state that is lost shows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from fakes.runner import VOCAB_SIZE

from trtdisagg.engine.interfaces import Bits
from trtdisagg.errors import RequestError
from trtdisagg.protocol.guide import GuideSpec

EVERY_THIRD = GuideSpec(kind="regex", text="every third")
"""Token i of the output is i modulo 3; it ends after LENGTH of them."""
LENGTH = 5


@dataclass
class FakeGuide:
    num_accepted: int = 0
    fails_at: int | None = None
    """Its mask raises when so many tokens were accepted."""
    allows_nothing_at: int | None = None
    accepted: list[int] = field(default_factory=list)

    def mask(self) -> Bits | None:
        if self.num_accepted == self.fails_at:
            raise RuntimeError("a guide fails")
        allowed = np.arange(VOCAB_SIZE) % 3 == self.num_accepted % 3
        if self.num_accepted == self.allows_nothing_at:
            allowed[:] = False
        words = np.packbits(allowed, bitorder="little")
        return np.pad(words, (0, -len(words) % 4)).view(np.int32)

    def accept(self, token_id: int) -> None:
        if token_id % 3 != self.num_accepted % 3:
            raise ValueError(f"{token_id} is not allowed")
        self.num_accepted += 1
        self.accepted.append(token_id)

    @property
    def is_complete(self) -> bool:
        return self.num_accepted >= LENGTH


class FakeGuides:
    def __init__(self) -> None:
        self.opened: list[FakeGuide] = []

    def open(self, spec: GuideSpec) -> FakeGuide:
        if spec != EVERY_THIRD:
            raise RequestError(f"{spec.text!r} means nothing")
        self.opened.append(FakeGuide())
        return self.opened[-1]
