"""What the transceiver asks of one rank: meet the ranks of other servers, fetch from them, say where it is.

Each rank of a server has a mover, in its own process, beside its pool. Rank 0's transceiver tells all of them what to
do: its own directly, those of the other ranks over the gang's connection.
"""

from __future__ import annotations

from typing import Protocol

from trtdisagg.protocol.memory import RankMemory
from trtdisagg.protocol.peers import Met, Moved, Part, PeerRanks


class Mover(Protocol):
    """The KV of one rank on its way. All methods are called in one event loop."""

    async def describe(self) -> RankMemory:
        """Where this rank's pool is, for the ranks of other servers."""

    async def meet(self, peer: PeerRanks) -> Met:
        """Connect to those ranks of a server that hold anything of ours, move a test block from each, and choose the
        way that was fastest. Once per incarnation, before the first `fetch` from it.

        :raises HandoverError: when one of them cannot be reached by any transport, with the reasons.
        """

    async def fetch(self, part: Part) -> Moved:
        """Copy our share of a request's KV into our blocks. When it returns or raises, nothing is written into them any
        more; cancelled, it waits for that.

        :raises HandoverError: when it could not be done, or the peer was forgotten meanwhile.
        """

    async def forget(self, incarnation: str) -> None:
        """End all that runs with this peer, soon, and give back what we hold of it."""

    def set_serving(self, is_serving: bool) -> None:
        """Tell whether others may be reading from our pool now. Returns at once."""
