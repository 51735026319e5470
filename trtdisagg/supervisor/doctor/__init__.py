"""Whether this machine can carry a plan, found out before anything starts.

    look(plan, place) -> Facts                  what there is: touches the machine, under 0.1 s
    examine(plan, facts) -> [Finding]           what the plan needs of it, and the way to mend what is missing: pure
    probe(plan) -> [Probed]                     whether the engine half loads and how fast KV moves: seconds
    examine_probe(plan, probed) -> [Finding]    pure
    examine_running(links) -> [Finding]         the links of the cluster, where it runs: pure

`before_start` is what `up` does with them, `trtdisagg doctor` shows all of it.
"""

from trtdisagg.supervisor.doctor.before_start import before_start
from trtdisagg.supervisor.doctor.examine import examine
from trtdisagg.supervisor.doctor.facts import Facts
from trtdisagg.supervisor.doctor.finding import Finding
from trtdisagg.supervisor.doctor.links import examine_probe, examine_running
from trtdisagg.supervisor.doctor.look import look
from trtdisagg.supervisor.doctor.needs import runs_builtin
from trtdisagg.supervisor.doctor.probing import Probed, probe

__all__ = [
    "Facts",
    "Finding",
    "Probed",
    "before_start",
    "examine",
    "examine_probe",
    "examine_running",
    "look",
    "probe",
    "runs_builtin",
]
