"""All that can be said of a machine without starting anything: the list of examinations. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trtdisagg.supervisor.doctor import fabric, limits, memory, places, surroundings, variables
from trtdisagg.supervisor.doctor.facts import Facts
from trtdisagg.supervisor.doctor.finding import Finding
from trtdisagg.supervisor.plan import Plan

_Examination = Callable[[Plan | None, Facts], Iterator[Finding]]

_EXAMINATIONS: list[_Examination] = [
    surroundings.modules,
    memory.host,
    memory.gpus,
    memory.swap,
    limits.cores,
    limits.open_files,
    limits.locked_memory,
    limits.process_memory,
    limits.shared_memory,
    places.ports,
    places.runtime,
    places.logs,
    places.hub_cache,
    places.secret,
    surroundings.environment,
    variables.traps,
    variables.contention,
    surroundings.peer_access,
    fabric.nvlink_domains,
    fabric.gpudirect,
    surroundings.clock,
]


def examine(plan: Plan | None, facts: Facts) -> list[Finding]:
    """What a plan needs of this machine, and what it has.

    :param plan: None: nothing is to be started, the machine as such is looked at.
    """
    return [finding for examination in _EXAMINATIONS for finding in examination(plan, facts)]
