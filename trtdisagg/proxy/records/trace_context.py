"""W3C trace context: what came with a request, and what goes with each of its legs. Pure.

traceparent: 00-<32 hex: the trace>-<16 hex: the span that asks>-<2 hex: flags>      01: it is recorded
"""

from __future__ import annotations

import random
import re
from typing import NamedTuple

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE = re.compile(r"[ -~]{1,512}")
_SAMPLED = 1


class TraceContext(NamedTuple):
    """Where a request belongs in a trace."""

    trace_id: int
    parent_id: int
    """0: the trace begins here."""
    span_id: int
    """Of the request; its legs have the numbers that follow."""
    flags: int
    state: str = ""
    """Of others who trace; passed on as it came."""

    @property
    def is_recorded(self) -> bool:
        return bool(self.flags & _SAMPLED)

    def leg_id(self, number: int) -> int:
        """Span of the leg of this number, from 0."""
        return (self.span_id + 1 + number) & 0xFFFF_FFFF_FFFF_FFFF or 1

    def leg_headers(self, number: int) -> bytes:
        """Lines of a request's head."""
        parent = f"traceparent: 00-{self.trace_id:032x}-{self.leg_id(number):016x}-{self.flags:02x}\r\n"
        return (parent + (f"tracestate: {self.state}\r\n" if self.state else "")).encode()


def trace_context(parent: str | None, state: str | None = None) -> TraceContext:
    """Go on with a client's trace, or begin one where there is none that can be read.

    :param parent, state: headers `traceparent` and `tracestate`.
    """
    span_id = random.getrandbits(64) or 1
    found = _PARENT.fullmatch(parent) if parent is not None else None
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return TraceContext(random.getrandbits(128) or 1, 0, span_id, _SAMPLED)
    trace_id, parent_id = int(found[2], 16), int(found[3], 16)
    if not trace_id or not parent_id:
        return TraceContext(random.getrandbits(128) or 1, 0, span_id, _SAMPLED)
    is_clean = state is not None and _STATE.fullmatch(state)
    # Of the flags only this one is understood here, so no other is passed on.
    return TraceContext(trace_id, parent_id, span_id, int(found[4], 16) & _SAMPLED, (state or "") if is_clean else "")
