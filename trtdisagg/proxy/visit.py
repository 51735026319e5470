"""One request as the door sees it: under which id it runs, who asks, and what its answer bears, whatever that is."""

from __future__ import annotations

from trtdisagg.protocol.control import Member
from trtdisagg.proxy.ids import request_id

REQUEST_ID = "X-Request-Id"
CONTEXT, GENERATION = "x-trtdisagg-context", "x-trtdisagg-generation"


class Visit:
    """
    :param wish: the id that the client would like to see.
    """

    __slots__ = ("client", "headers", "request_id")

    def __init__(self, wish: str | None) -> None:
        self.request_id = request_id(wish)
        self.client = ""
        """Name of the API key; empty: there are none."""
        self.headers = {REQUEST_ID: self.request_id}
        """Of the answer; of a stream, as they are when it begins."""

    def goes_to(self, context: Member | None, generation: Member | None) -> None:
        """Say which servers do it: those that were chosen, as the first token is sent before generation is asked.

        A stream that goes on elsewhere says who began it. None: no server of that role takes part.
        """
        self._name(CONTEXT, context)
        self._name(GENERATION, generation)

    def goes_on(self, generation: Member | None) -> None:
        """What comes behind the first token is another server's, or none's."""
        self._name(GENERATION, generation)

    def _name(self, header: str, member: Member | None) -> None:
        if member is None:
            self.headers.pop(header, None)
        else:
            self.headers[header] = member.name
