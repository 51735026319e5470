"""What the engine loop needs of others: somebody who computes a step, and somebody who moves KV."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from trtdisagg.cache.announcements import Announcement, AnnouncementKey
from trtdisagg.cache.holds import Offer
from trtdisagg.cache.transfers import Transfer
from trtdisagg.engine.step import Step
from trtdisagg.protocol.guide import GuideSpec
from trtdisagg.protocol.handover import Ticket

Bits: TypeAlias = npt.NDArray[np.int32]


class EngineBrokenError(Exception):
    """No step can be computed any more; its words are why."""


class Runner(Protocol):
    """Computes a step; called from the engine thread only."""

    def run(self, step: Step) -> Tensor:
        """
        Write the KV of all chunks and give logits.

        :return: float32 [sum of `num_logits`, vocab], in order.
        :raises EngineBrokenError: when neither this step nor another one can be computed; after any other exception
            the next step may be tried.
        """


class Guide(Protocol):
    """What one answer may go on with; called from the engine thread only."""

    def mask(self) -> Bits | None:
        """
        :return: int32 [ceil(vocab / 32)], bit i of word w is set when token 32 w + i may come next; None: any may.
        :raises RequestError: when the specification has become too complex to follow: this answer ends with it.
        """

    def accept(self, token_id: int) -> None:
        """Go on behind this token.

        :raises ValueError: when the mask did not have it.
        :raises RequestError: as `mask`.
        """

    @property
    def is_complete(self) -> bool:
        """Nothing more may come: the answer ends here."""


class Guides(Protocol):
    """Makes guides."""

    def open(self, spec: GuideSpec) -> Guide:
        """A guide at the beginning of an answer.

        :raises RequestError: when the specification means nothing.
        """


class OnFetched(Protocol):
    """What a fetch ends with."""

    def __call__(self, error: str | None, transfer: Transfer | None = None) -> None:
        """:param transfer: without an error: what has come, where that is known."""


OnPrefetched: TypeAlias = Callable[[str | None], None]
"""What the fetch of a piece ends with: without an error the blocks are valid."""


class Handover(Protocol):
    """Moves KV between this engine and others.

    The methods are called from the engine thread and return at once; the callbacks may be called from any thread, each
    exactly once. A request with a ticket makes one of these sequences of calls:

        claim, fetch -> on_fetched        claim, fetch, forget -> on_fetched        claim, forget
    """

    def hold(self, offer: Offer) -> Ticket:
        """Offer KV to a generation server.

        :raises TrtdisaggError: when nothing can be offered; then `on_released` is never called.
        """

    def withdraw(self, ticket: Ticket) -> None:
        """Take back what `hold` offered, because nobody has the ticket; without effect on what is released already."""

    def claim(self, request_id: int, ticket: Ticket) -> None:
        """A request with this ticket has entered and waits for blocks: its lease is kept alive."""

    def fetch(self, request_id: int, blocks: list[int], on_fetched: OnFetched, dp_rank: int = 0) -> None:
        """
        Start to write the KV that the request's ticket names.

        :param blocks: as many as `ticket.num_tokens` fill; -1: that one is here already.
        :param on_fetched: nothing is written any more; without an error the blocks are valid.
        :param dp_rank: whose blocks they are here; the ticket says whose they are over there.
        """

    def forget(self, request_id: int) -> None:
        """
        The KV is no longer wanted. A fetch that runs may be cut short, and still ends with its callback.

        It may have ended a moment ago, its callback on the way: then there is nothing to do.
        """

    # --- pieces of prompts that are still computed --------------------------------------------------------------------

    def announce(self, reader: str, dp_rank: int, cache_salt: str | None) -> int | None:
        """Begin to tell a generation server of a prompt that is computed for it.

        :param reader: its name.
        :return: a number for the next two; None: that server is not connected.
        """

    def tell(self, announcement: int, tokens: list[int], blocks: list[int]) -> None:
        """
        More of the prompt is computed: these tokens fill these blocks. The blocks stay as they are until `retract`.
        """

    def retract(self, announcement: int) -> None:
        """From now on the blocks may change: what is read of them and was not checked before is not valid."""

    def follow(self, announced: Callable[[Announcement], None], retracted: Callable[[AnnouncementKey], None]) -> None:
        """
        Learn what others announce to this server; otherwise nobody listens.

        :param announced: there is more than was told before.
        :param retracted: there will be no more.
        """

    def prefetch(
        self, announcement: Announcement, blocks: list[int], dp_rank: int, on_prefetched: OnPrefetched
    ) -> None:
        """
        Start to write the KV of what was announced; the parameters are those of `fetch`. Nothing is claimed by it.

        :param on_prefetched: nothing is written any more.
        """
