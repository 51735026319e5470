"""W3C trace context: what is taken over from a client, and what servers get."""

from __future__ import annotations

import pytest

from trtdisagg.proxy.records.trace_context import TraceContext, trace_context

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(("flags", "is_recorded"), [("01", True), ("00", False), ("03", True)])
def test_a_client_s_trace_goes_on(flags: str, is_recorded: bool) -> None:
    context = trace_context(f"00-{TRACE}-{PARENT}-{flags}", "vendor=1")
    assert (f"{context.trace_id:032x}", f"{context.parent_id:016x}") == (TRACE, PARENT)
    assert context.is_recorded == is_recorded
    head = context.leg_headers(1).decode()
    span = f"{context.leg_id(1):016x}"
    assert head == f"traceparent: 00-{TRACE}-{span}-{int(is_recorded):02d}\r\ntracestate: vendor=1\r\n"
    assert len({context.span_id, context.leg_id(0), context.leg_id(1)}) == 3


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert f"{trace_context(f'42-{TRACE}-{PARENT}-01-more').trace_id:032x}" == TRACE


@pytest.mark.parametrize(
    "parent",
    [
        None,
        "",
        "made up",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
    ],
)
def test_without_one_that_can_be_read_a_trace_begins(parent: str | None) -> None:
    context = trace_context(parent, "vendor=1")
    assert context.parent_id == 0
    assert context.is_recorded
    assert f"{context.trace_id:032x}" != TRACE
    assert context.state == ""


@pytest.mark.parametrize("state", ["a=1\r\nX-Evil: 1", "ü", "x" * 513])
def test_a_state_that_is_no_header_is_left_out(state: str) -> None:
    assert trace_context(f"00-{TRACE}-{PARENT}-01", state).state == ""


def test_spans_of_legs_are_never_zero() -> None:
    assert TraceContext(1, 0, 2**64 - 1, 1).leg_id(0) == 1
