"""What the transceiver asks of a way to move KV: say where our pool is, connect to a peer's pool, read from it.

All methods may block, so they are called from worker threads; a Link is read by several at once.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from trtdisagg.cache.layout import Runs
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.peers import Memory


class Link(Protocol):
    """The way from one peer's pool into ours."""

    def read(self, runs: Runs) -> None:
        """
        Copy; when it returns or raises, nothing is written any more.

        :raises HandoverError: when the peer is gone, or a run lies outside one of the pools.
        """

    def abort(self) -> None:
        """Make reads that run end soon. Returns at once."""

    def close(self) -> None:
        """Give everything back that the link holds. No read runs any more."""


class Transport(Protocol):
    """One way to move KV, bound to our pool."""

    memory_type: ClassVar[type[Memory]]
    """What `describe` gives and `connect` takes; its tag is the transport's name."""

    def describe(self) -> Memory:
        """Where our pool is, for a peer's `connect`."""

    def connect(self, memory: Memory) -> Link:
        """
        Reach a peer's pool, and find out that it can be read.

        :raises HandoverError: when it cannot, with the reason.
        """

    def set_serving(self, is_serving: bool) -> None:
        """Tell whether a peer may be reading from our pool now. Returns at once."""

    def close(self) -> None:
        """Give everything back. All links are closed already."""


def name_of(memory_type: type[Memory]) -> str:
    """`local`, `nixl`."""
    return str(memory_type.__struct_config__.tag)


def check_bounds(runs: Runs, *, local_bytes: int, remote_bytes: int) -> None:
    """
    :raises HandoverError: when a run begins or ends outside one of the pools; block numbers come with the ticket.
    """
    starts, ends = runs[:, :2], runs[:, :2] + runs[:, 2:]
    if (starts < 0).any() or (ends > (local_bytes, remote_bytes)).any():
        raise HandoverError("the ticket names blocks outside the pool")
