"""Pieces of prompts in one pool, from when they get blocks until their fetch is over. Pure.

EXPECTED ---- fetched ----> FINISHED      its blocks are found by their hashes, as long as there is room
"""

from __future__ import annotations

from collections.abc import Collection

from trtdisagg.engine.queue import Queue
from trtdisagg.engine.sequence import Sequence, State
from trtdisagg.engine.tables import Tables


class Pieces:
    """Those on their way.

    :param waiting: whoever is in it comes first, and who has a piece on its way is delayed in it.
    :param fetching: those who fetch for themselves.
    """

    def __init__(self, tables: Tables, waiting: Queue, fetching: Collection[Sequence]) -> None:
        self._tables = tables
        self._waiting = waiting
        self._fetching = fetching
        self._pieces: set[Sequence] = set()

    def __len__(self) -> int:
        return len(self._pieces)

    def has_beginning_of(self, sequence: Sequence) -> bool:
        return any(_begins_with(sequence, piece) for piece in self._pieces)

    def begin(self, piece: Sequence, num_running: int) -> bool:
        """Give it blocks, if anything of it is missing, nobody fetches it, and nobody here wants the blocks.

        :param num_running: who will want some soon.
        """
        if self._waiting or any(_begins_with(sequence, piece) for sequence in self._fetching):
            return False
        if not self._tables.can_spare(piece, num_running):
            return False
        self._tables.open(piece)
        piece.state = State.EXPECTED
        self._pieces.add(piece)
        return True

    def end(self, piece: Sequence, num_tokens: int) -> None:
        """Its fetch is over, and the KV of this many tokens is here."""
        self._pieces.remove(piece)
        piece.num_computed = max(piece.num_computed, num_tokens)
        self._tables.filled(piece)
        self._tables.close(piece)
        piece.state = State.FINISHED
        self._waiting.resume()

    def check_integrity(self, sequences: list[Sequence]) -> None:
        assert self._pieces == {s for s in sequences if s.state is State.EXPECTED}, "pieces are lost"


def _begins_with(sequence: Sequence, piece: Sequence) -> bool:
    is_salted_alike = sequence.request.cache_salt == piece.request.cache_salt
    return is_salted_alike and sequence.tokens[: piece.num_prompt] == piece.tokens
