"""What happened, in words for people: one line an event."""

from __future__ import annotations

import functools
import signal

from trtdisagg.net import join_address
from trtdisagg.protocol.reports import Beat, Failed, Linked, Loading, Ready, Report
from trtdisagg.supervisor.events import (
    Abandon,
    Added,
    BackOff,
    Canary,
    Event,
    Exited,
    GiveUp,
    Hurry,
    Kill,
    Leave,
    LeaveAsked,
    Noticed,
    Reported,
    RollAsked,
    RollEnded,
    Spawned,
    Stall,
    Stay,
    StopAsked,
    Switch,
    Terminate,
    Unmet,
    Woke,
)


def exit_words(returncode: int) -> str:
    """What a return code of subprocess means."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"killed by signal {-returncode}"


@functools.singledispatch
def describe(_event: Event) -> str | None:
    """One line for people; None for what is only noise to them."""
    return None


@describe.register
def _spawned(event: Spawned) -> str:
    pids = event.pids or [event.pid]
    on = f" on {', '.join(dict.fromkeys(event.nodes))}" if event.nodes else ""
    return f"{event.name}: started{on}, pid{'s' * (len(pids) > 1)} {', '.join(map(str, pids))}"


@describe.register
def _reported(event: Reported) -> str | None:
    words = _report(event.report)
    return words and f"{event.name}: {words}"


def _report(report: Report) -> str | None:
    match report:
        case Loading(stage=stage):
            return f"loading {stage}"
        case Ready(host=host, port=port):
            return f"ready on {join_address(host, port)}"
        case Failed(message=message):
            return f"failed: {message}"
        case Linked(server=server, error=str(error)):
            return f"no KV from {server}: {error}"
        case Linked(server=server, transport=transport, direction=direction, gb_s=gb_s):
            return f"KV of {server} comes by {transport} ({direction}, {gb_s:.1f} GB/s)"
        case Beat():
            return None


@describe.register
def _exited(event: Exited) -> str:
    return f"{event.name}: ended: {event.how}"


@describe.register
def _leave_asked(event: LeaveAsked) -> str:
    return f"{event.name}: {event.reason}, within {event.timeout_s:g} s"


@describe.register
def _leave(event: Leave) -> str:
    return f"{event.name}: {event.reason}"


@describe.register
def _added(event: Added) -> str:
    return f"{event.name}: added"


@describe.register
def _roll_asked(event: RollAsked) -> str:
    return f"restarting in turn: {', '.join(event.names)}"


@describe.register
def _roll_ended(event: RollEnded) -> str:
    return event.reason


@describe.register
def _terminate(event: Terminate) -> str:
    return f"{event.name}: asked to end"


@describe.register
def _hurry(event: Hurry) -> str:
    return f"{event.name}: is cut short: the deadline of its drain has passed"


@describe.register
def _switch(event: Switch) -> str:
    return f"{event.name}: is free and takes the role {event.role}"


@describe.register
def _unmet(event: Unmet) -> str:
    return f"{event.name}: has not met {event.server} in time; it computes that server's prompts again until it has"


@describe.register
def _stay(event: Stay) -> str:
    return f"{event.name}: did not get free in time and stays what it is"


@describe.register
def _canary(event: Canary) -> str | None:
    return event.error and f"{event.name}: gave no token: {event.error}"


@describe.register
def _kill(event: Kill) -> str:
    return f"{event.name}: killed: {event.reason}"


@describe.register
def _stall(event: Stall) -> str:
    return f"{event.name}: {event.reason}; not routed to"


@describe.register
def _back_off(event: BackOff) -> str:
    return f"{event.name}: starts again in {event.until - event.at:.1f} s"


@describe.register
def _give_up(event: GiveUp) -> str:
    return f"{event.name}: given up: {event.reason.splitlines()[0]}"


@describe.register
def _abandon(event: Abandon) -> str:
    return f"{event.name}: does not end even when killed; left alone"


@describe.register
def _stop_asked(event: StopAsked) -> str:
    return f"{'killing' if event.force else 'draining'} ({event.reason})"


@describe.register
def _woke(event: Woke) -> str:
    return f"the supervisor was held up for {event.late_s:.1f} s"


@describe.register
def _noticed(event: Noticed) -> str:
    return event.text
