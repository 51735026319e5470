"""One end of an exchange that outlives its connections: each message arrives once, and in order. Pure.

    send(message)    numbered, and kept until the other end says that it has received it
    reopened(n)      there is a new connection; the other end has the first n, the rest is due again
    due()            what is to be written now
    take(...)        whether a message that has come is new

Knows nothing of what the messages say, or of the connection.
"""

from __future__ import annotations

import itertools
from collections import deque

ACKNOWLEDGE_EVERY = 64
"""Messages: one end keeps what it has sent until it hears of it."""
WRITE_BYTES = 256 * 1024


class GapError(Exception):
    """A message is missing: what comes after it is not to be taken."""


class Session:
    """
    :ivar num_received: messages of the other end that have been taken.
    :ivar num_kept_bytes: of messages that the other end may not have received.
    """

    def __init__(self) -> None:
        self.num_received = 0
        self.num_kept_bytes = 0
        self._kept: deque[bytes] = deque()
        self._num_arrived = 0
        """Of ours; the number of the first that is kept is one more."""
        self._num_written = 0
        """On this connection, or known to have arrived on one before."""
        self._told_received = 0

    @property
    def has_all_arrived(self) -> bool:
        return not self._kept

    @property
    def owes_word(self) -> bool:
        """Whether the other end should hear soon what has been received."""
        return self.num_received - self._told_received >= ACKNOWLEDGE_EVERY

    def send(self, message: bytes) -> None:
        self._kept.append(message)
        self.num_kept_bytes += len(message)

    @property
    def has_due(self) -> bool:
        return self._num_written < self._num_arrived + len(self._kept)

    def due(self) -> list[tuple[int, bytes]]:
        """The next messages to be written, with their numbers; they count as written. Not more than WRITE_BYTES of
        them, but for one that is longer by itself: what has gathered over a cut need not go through in one write."""
        new: list[tuple[int, bytes]] = []
        num_bytes = 0
        for message in itertools.islice(self._kept, self._num_written - self._num_arrived, None):
            num_bytes += len(message)
            if new and num_bytes > WRITE_BYTES:
                break
            new.append((self._num_written + len(new) + 1, message))
        self._num_written += len(new)
        return new

    def tell_received(self) -> int:
        """How many have been received, for whatever is written next."""
        self._told_received = self.num_received
        return self.num_received

    def take(self, number: int, other_received: int) -> bool:
        """Something has come.

        :param number: of the message in it; 0: it has none.
        :param other_received: of ours.
        :returns: whether there is a message, and it is new.
        :raises GapError: when it is not the next one; on the next connection the missing ones are due again.
        """
        self._let_go(other_received)
        if number > self.num_received + 1:
            raise GapError(f"message {number} came after {self.num_received}")
        if number != self.num_received + 1:
            return False
        self.num_received = number
        return True

    def reopened(self, other_received: int) -> None:
        """There is a new connection; what the other end does not have is due again."""
        self._let_go(other_received)
        self._num_written = self._num_arrived

    def _let_go(self, other_received: int) -> None:
        while self._kept and self._num_arrived < other_received:
            self.num_kept_bytes -= len(self._kept.popleft())
            self._num_arrived += 1
        self._num_written = max(self._num_written, self._num_arrived)
