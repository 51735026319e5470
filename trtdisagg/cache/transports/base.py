"""What a mover asks of a way to move KV: say where our memory is, connect to a peer's, read from it or write into it.

Runs count from block 0 on both sides and may lie anywhere in the two regions (`protocol.memory.Region`): what may be
touched for whom is the mover's business.

All methods may block, so they are called from worker threads; a Link is used by several at once.
"""

from __future__ import annotations

from typing import ClassVar, Protocol

from trtdisagg.cache.layout import Runs
from trtdisagg.errors import HandoverError
from trtdisagg.protocol.memory import Memory


class Link(Protocol):
    """The way between one peer's memory and ours."""

    def read(self, runs: Runs) -> None:
        """
        Copy from theirs to ours; when it returns or raises, nothing is written any more.

        :raises HandoverError: when the peer is gone, or a run lies outside one of the regions.
        """

    def write(self, runs: Runs) -> None:
        """
        Copy from ours to theirs, where the transport `can_write`; otherwise as `read`.

        :param runs: offset in our region, offset in theirs, number of bytes, as for `read`.
        """

    def abort(self) -> None:
        """Make what runs end soon. Returns at once."""

    def close(self) -> None:
        """Give everything back that the link holds. Nothing runs any more."""


class Transport(Protocol):
    """One way to move KV, bound to our pool."""

    can_write: ClassVar[bool]

    @property
    def memory_type(self) -> type[Memory]:
        """What `describe` gives and `connect` takes; its tag is the transport's name."""

    def describe(self) -> Memory:
        """Where our memory is, for a peer's `connect`."""

    def connect(self, memory: Memory) -> Link:
        """
        Reach a peer's memory, and find out that it can be read.

        :raises HandoverError: when it cannot, with the reason.
        """

    def set_serving(self, is_serving: bool) -> None:
        """Tell whether a peer may be using our memory now. Returns at once."""

    def close(self) -> None:
        """Give everything back. All links are closed already."""


def name_of(memory_type: type[Memory]) -> str:
    """`local`, `nixl`, `ucx`, `mpi`."""
    return str(memory_type.__struct_config__.tag)


def check_bounds(runs: Runs, *, local_bytes: int, remote_bytes: int) -> None:
    """
    :raises HandoverError: when a run begins or ends outside one of the memories; block numbers come with the ticket.
    """
    starts, ends = runs[:, :2], runs[:, :2] + runs[:, 2:]
    if (starts < 0).any() or (ends > (local_bytes, remote_bytes)).any():
        raise HandoverError("the ticket names blocks outside the pool")
