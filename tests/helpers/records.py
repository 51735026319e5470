"""Records of requests, as the path of a request would have left them."""

from __future__ import annotations

from typing import Any, TypeVar

from trtdisagg.protocol.control import Member
from trtdisagg.proxy.records.record import LegKind, LegOutcome, LegRecord, Record

CONTEXT = Member(name="context-0", role="context", model="m", url="h:1")
GENERATION = Member(name="generation-0", role="generation", model="m", url="h:2")
OTHER = Member(name="generation-1", role="generation", model="m", url="h:3")


Made = TypeVar("Made", Record, LegRecord)


def leg(
    kind: LegKind, member: Member, times: tuple[float, float, float], outcome: LegOutcome = "done", **more: Any
) -> LegRecord:
    """
    :param times: begun, first byte, ended.
    """
    made = LegRecord(kind, member, times[0])
    made.first_byte = times[1]
    made.end(times[2], outcome, more.pop("why", ""))
    return _with(made, more)


def record(**more: Any) -> Record:
    """A streamed request that came at 100.0 and was refused unless `more` says otherwise."""
    made = Record(more.pop("request_id", "r"), more.pop("route", "/v1/completions"), more.pop("arrived", 100.0))
    return _with(made, {"model": "m", "status": 429, "ended": 100.001, "is_stream": True, **more})


def handed_over(**more: Any) -> Record:
    """One that went over two servers: 10 tokens, the first after 0.2 s, then one each 10 ms."""
    legs = [
        leg("context", CONTEXT, (100.02, 100.19, 100.19)),
        leg("generation", GENERATION, (100.2, 100.25, 100.3)),
    ]
    told = {"chosen": 100.01, "first_token": 100.2, "ended": 100.3, "status": 200, "path": "both", "num_events": 12}
    return record(**{**told, "legs": legs, "disagg_request_id": 90, **more})


def _with(made: Made, values: dict[str, Any]) -> Made:
    for name, value in values.items():
        setattr(made, name, value)
    return made
