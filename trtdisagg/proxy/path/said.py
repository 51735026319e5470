"""What a client has of a stream, kept for the case that its server dies: read only then, or when it becomes too much.

    pieces of a server  -> whole events    so a break never leaves half of one with the client
    events that were sent -> Said          as they came, folded into token ids now and then

An event of ours says in `seam` what it takes to go on behind it (`protocol.handover.SeamPart`). Nothing here waits, and
on the way of a piece nothing is decoded: its end is looked at, and its bytes are searched where that says nothing.
"""

from __future__ import annotations

from array import array

import msgspec

from trtdisagg.protocol.handover import SeamPart

MAX_EVENT_BYTES = 8 * 1024 * 1024
FOLD_BYTES = 16 * 1024
"""Of events that are kept as they came. Few streams become so long; a thousand of them are 16 MB."""
DONE = b"data: [DONE]\n\n"

_EVENT_END = b"\n\n"
_PART_END = b"]]}\n\n"
"""How an event ends whose last field is its part. A piece that ends so has no error in it: that is always the last."""
_BETWEEN = b"\n\ndata: "
_ERROR = b'data: {"error":'
"""An event of ours that says why the answer ends here. Within a string of JSON the quotes would have backslashes."""


class _Choice(msgspec.Struct):
    finish_reason: str | None = None


class _Event(msgspec.Struct):
    seam: SeamPart
    choices: list[_Choice]


_decode_events = msgspec.json.Decoder(list[_Event]).decode


class WholeEvents:
    """Takes a server's pieces, which may end anywhere, and gives whole events, up to one that is an error."""

    __slots__ = ("_kept", "error")

    def __init__(self) -> None:
        self._kept = b""
        self.error: bytes | None = None
        """The data of an event that is an error, or what is wrong with the stream; it is the last."""

    def feed(self, piece: bytes) -> bytes:
        """
        :returns: what may be sent now; nothing, where no event has come to its end.
        """
        if piece.endswith(_PART_END) and not self._kept:  # almost always
            return piece
        if self._kept or not piece.endswith(_EVENT_END):
            piece = self._cut(self._kept + piece)
        return self._until_error(piece) if _ERROR in piece else piece

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


class Said:
    """What a client has of one stream of one answer."""

    __slots__ = ("_events", "_token_ids", "has_usage", "is_finished", "is_readable", "num_chars_sent")

    def __init__(self) -> None:
        self._events = bytearray()
        """Sent, and not folded yet."""
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
        :param events: whole ones, that were sent.
        """
        if len(self._events) > FOLD_BYTES:
            self._fold()
        self._events += events

    def token_ids(self) -> list[int]:
        """Of all that was sent; what follows from it (`num_chars_sent` and the rest) is true from then on."""
        self._fold()
        return self._token_ids.tolist()

    def _fold(self) -> None:
        if not self._events:
            return
        events, self._events = bytes(self._events), bytearray()
        try:
            decoded = _decode_events(b"[%b]" % events[len(b"data: ") : -len(_EVENT_END)].replace(_BETWEEN, b","))
        except msgspec.DecodeError:
            self.is_readable = False
            return
        for event in decoded:
            self._token_ids.extend(event.seam.token_ids)
            self.num_chars_sent = event.seam.num_chars_sent
            if not event.choices:
                self.has_usage = True
            elif event.choices[0].finish_reason is not None:
                self.is_finished = True
