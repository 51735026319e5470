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

    __slots__ = ("_context", "_generation", "_others", "client", "request_id")

    def __init__(self, wish: str | None) -> None:
        self.request_id = request_id(wish)
        self.client = ""
        """Name of the API key; empty: there are none."""
        self._others: dict[str, str] | None = None
        self._context: Member | None = None
        self._generation: Member | None = None

    def goes_to(self, context: Member | None, generation: Member | None) -> None:
        """Say which servers do it: those that were chosen, as the first token is sent before generation is asked.

        A stream that goes on elsewhere says who began it. None: no server of that role takes part.
        """
        self._context, self._generation = context, generation

    def goes_on(self, generation: Member | None) -> None:
        """What comes behind the first token is another server's, or none's."""
        self._generation = generation

    def bears(self, headers: dict[str, str]) -> None:
        """The answer has these, too."""
        self._others = {**self._others, **headers} if self._others else headers

    def headers(self) -> dict[str, str]:
        """Of the answer, as far as they are known; of a stream those that count are known when it begins."""
        headers = {REQUEST_ID: self.request_id}
        if self._context is not None:
            headers[CONTEXT] = self._context.name
        if self._generation is not None:
            headers[GENERATION] = self._generation.name
        return headers if self._others is None else {**headers, **self._others}
