"""One response in the place of the chat that it is made of: what a client is sent for what a server says."""

from __future__ import annotations

import msgspec

from trtdisagg.proxy.responses.asked import Asked
from trtdisagg.proxy.responses.events import Events
from trtdisagg.proxy.responses.said import respond


class Form:
    """
    :param asked: by the client.
    """

    def __init__(self, asked: Asked) -> None:
        self._blank = asked.blank
        self._events = Events(asked.blank)

    def begin(self, data: bytes) -> bytes:
        """
        :param data: the first bytes of the chat's stream.
        """
        return self._events.begin() + self._events.feed(data)

    def feed(self, data: bytes) -> bytes:
        """
        :returns: may be empty.
        """
        return self._events.feed(data)

    def fail(self, error: bytes) -> bytes:
        """
        :param error: the body of an error answer.
        """
        return self._events.fail(error)

    def whole(self, body: bytes) -> bytes:
        """
        :param body: the chat's whole answer.
        """
        return msgspec.json.encode(respond(self._blank, body))
