"""Which pages of other origins may ask from within a browser (`proxy.cors_allow_origins`), by the fetch standard.

Credentials of the browser's (cookies) are never allowed: who asks brings an API key or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from trtdisagg.proxy.door.visit import CONTEXT, GENERATION, REQUEST_ID

ANY = "*"
MAX_AGE_S = 600
_EXPOSED = ", ".join((REQUEST_ID, CONTEXT, GENERATION, "Retry-After", "x-ratelimit-limit-requests",
                      "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"))  # fmt: skip


class Cors:
    """
    :param origins: as browsers say them (`https://app.example.org`), or `*`.
    """

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = frozenset(origins)

    def headers(self, origin: str | None) -> dict[str, str]:
        """Of an answer to a page of this origin."""
        if ANY in self._origins:
            return {"Access-Control-Allow-Origin": ANY, "Access-Control-Expose-Headers": _EXPOSED}
        if origin not in self._origins:
            return {"Vary": "Origin"}
        assert origin is not None
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Expose-Headers": _EXPOSED,
            "Vary": "Origin",
        }

    def preflight(self, origin: str | None, allowed: Sequence[str], headers: str | None) -> dict[str, str]:
        """Of the answer to a browser that asks whether its page may ask.

        :param allowed: methods.
        :param headers: that the page wants to send; all may be sent.
        """
        if "Access-Control-Allow-Origin" not in self.headers(origin):
            return {}
        return {
            "Access-Control-Allow-Methods": ", ".join(allowed),
            "Access-Control-Allow-Headers": headers or "Authorization, Content-Type",
            "Access-Control-Max-Age": str(MAX_AGE_S),
        }
