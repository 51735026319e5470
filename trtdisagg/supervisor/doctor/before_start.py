"""What `up` does before it starts anything."""

from __future__ import annotations

from trtdisagg.errors import StartupError
from trtdisagg.supervisor.doctor.examine import examine
from trtdisagg.supervisor.doctor.look import look, raise_open_files
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import Plan


def before_start(plan: Plan, place: Place) -> list[str]:
    """Find out whether this machine can carry the plan, and raise our limit of open files for all that we start.

    :returns: warnings for people.
    :raises StartupError: when it cannot; the message has every reason.
    """
    raise_open_files()
    facts = look(plan, place)
    # Of servers that share cores the plan's own notices tell.
    findings = [f for f in examine(plan, facts) if f.topic != "CPU cores" or facts.cpu_quota is not None]
    if errors := [finding for finding in findings if finding.severity == "error"]:
        raise StartupError("\n  ".join(["This machine cannot run the cluster:", *map(str, errors)]))
    return [str(finding) for finding in findings if finding.severity == "warning"]
