"""What a client has of a stream, kept for the case that its server dies: read only then, or when it becomes too much.

    pieces of a server  -> whole events    so a break never leaves half of one with the client
    events that were sent -> Said          as they came, maybe in chunks of HTTP, folded into token ids now and then

An event of ours says in `seam` what it takes to go on behind it (`protocol.handover.SeamPart`). Nothing here waits, and
on the way of a piece nothing is decoded: its end is looked at, and its bytes are searched where that says nothing.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable

import msgspec

from trtdisagg.protocol.handover import SeamPart

MAX_EVENT_BYTES = 8 * 1024 * 1024
FOLD_BYTES = range(16 * 1024, 128 * 1024)
"""Of events of one stream that are kept as they came; a fold of the most takes half a millisecond."""
KEPT_BYTES = 16 * 1024 * 1024
"""Of all streams. Folding costs as much as all else that is done here with an event, and waits while there is room."""
DONE = b"data: [DONE]\n\n"

_EVENT_END = b"\n\n"
PART_END = b"]]}\n\n"
"""How an event ends whose last field is its part. A piece that ends so has no error in it: that is always the last."""
_DATA = b"data: "
_BETWEEN = re.compile(rb"\n\n[\r\n0-9A-Fa-f]*data: ")
"""Two events. The end of a chunk may be there, and the size of the next."""
_ERROR = b'data: {"error":'
"""An event of ours that says why the answer ends here. Within a string of JSON the quotes would have backslashes."""


class _Choice(msgspec.Struct, gc=False):
    finish_reason: str | None = None


class _Event(msgspec.Struct, gc=False):
    seam: SeamPart
    choices: list[_Choice]


_decode_events = msgspec.json.Decoder(list[_Event]).decode


class WholeEvents:
    """Takes a server's pieces, which may end anywhere, and gives whole events, up to one that is an error.

    :ivar is_between: nothing is kept, and nothing has gone wrong.
    """

    __slots__ = ("_kept", "error", "is_between")

    def __init__(self) -> None:
        self._kept = b""
        self.is_between = True
        self.error: bytes | None = None
        """The data of an event that is an error, or what is wrong with the stream; it is the last."""

    def feed(self, piece: bytes) -> bytes:
        """
        :returns: what may be sent now; nothing, where no event has come to its end.
        """
        if piece.endswith(PART_END) and not self._kept:  # almost always
            return piece
        if self._kept or not piece.endswith(_EVENT_END):
            piece = self._cut(self._kept + piece)
        if _ERROR in piece:
            piece = self._until_error(piece)
        self.is_between = not self._kept and self.error is None
        return piece

    def _cut(self, data: bytes) -> bytes:
        end = data.rfind(_EVENT_END) + len(_EVENT_END)
        if end < len(_EVENT_END):
            end = 0
        self._kept = data[end:]
        if len(self._kept) > MAX_EVENT_BYTES:
            self._kept, self.error = b"", b'{"error":{"message":"an event does not end","type":"upstream_error"}}'
        return data[:end]

    def _until_error(self, events: bytes) -> bytes:
        events, _, rest = events.partition(_ERROR)
        self.error = (_ERROR + rest).removeprefix(b"data: ").partition(_EVENT_END)[0]
        return events


def fold_bytes(num_streams: int) -> int:
    """How much may be kept of one, when there are so many."""
    return min(max(KEPT_BYTES // max(num_streams, 1), FOLD_BYTES.start), FOLD_BYTES.stop)


class Said:
    """What a client has of one stream of one answer.

    :param num_streams: how many there are now; none but this one, if it is not said.
    """

    __slots__ = (
        "_events",
        "_look_bytes",
        "_num_folded",
        "_num_streams",
        "_token_ids",
        "has_usage",
        "is_finished",
        "is_readable",
        "num_chars_sent",
    )

    def __init__(self, num_streams: Callable[[], int] = lambda: 1) -> None:
        self._num_streams = num_streams
        self._look_bytes = FOLD_BYTES.start
        """When there are so many, it is asked whether there is room for more."""
        self._events = bytearray()
        """Sent, and not folded yet; some as whole chunks, framing and all."""
        self._num_folded = 0
        self._token_ids = array("I")
        self.num_chars_sent = 0
        self.is_finished = False
        """A finish reason was sent: what may be missing are the usage and the end mark."""
        self.has_usage = False
        """The usage of it all was sent: it comes behind the finish reason, in an event of its own."""
        self.is_readable = True
        """Each event had its part."""

    def add(self, events: bytes) -> None:
        """
        :param events: whole ones, that were sent; or whole chunks of such.
        """
        if len(self._events) > self._look_bytes:
            self._look()
        self._events += events

    @property
    def num_events(self) -> int:
        return self._num_folded + _num_events(self._events)

    def token_ids(self) -> list[int]:
        """Of all that was sent; what follows from it (`num_chars_sent` and the rest) is true from then on."""
        self._fold()
        return self._token_ids.tolist()

    def _look(self) -> None:
        if len(self._events) > fold_bytes(self._num_streams()):
            self._fold()
        self._look_bytes = len(self._events) + FOLD_BYTES.start

    def _fold(self) -> None:
        if not self._events:
            return
        events, self._events = bytes(self._events), bytearray()
        try:
            decoded = _decode_events(b"[%b]" % _BETWEEN.sub(b",", events[events.find(_DATA) + len(_DATA) :].rstrip()))
        except msgspec.DecodeError:
            self._num_folded += _num_events(events)
            self.is_readable = False
            return
        self._num_folded += len(decoded)
        for event in decoded:
            self._token_ids.extend(event.seam.token_ids)
            self.num_chars_sent = event.seam.num_chars_sent
            if not event.choices:
                self.has_usage = True
            elif event.choices[0].finish_reason is not None:
                self.is_finished = True


def _num_events(events: bytes | bytearray) -> int:
    return events.count(b"\n" + _DATA) + events.startswith(_DATA)
