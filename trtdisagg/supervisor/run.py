"""One run of a cluster, from the means that it needs to its exit code.

What has to be there before anything starts is taken here, and given back whatever happens: the cluster's lock, the
sockets that clients connect to, the guardian.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable

from trtdisagg.errors import CrashLoopError, NotReadyInTimeError, StartupError, TrtdisaggError
from trtdisagg.protocol.control import ClusterStatus
from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.supervisor import ports, rundir
from trtdisagg.supervisor.agent import Agent
from trtdisagg.supervisor.door import Door
from trtdisagg.supervisor.guarded import Guardian
from trtdisagg.supervisor.load_table import LoadTable
from trtdisagg.supervisor.membership import registrar_for
from trtdisagg.supervisor.nodes.links import NodeLinks
from trtdisagg.supervisor.nodes.presence import Presence
from trtdisagg.supervisor.nursery import Nursery
from trtdisagg.supervisor.pace import Pace
from trtdisagg.supervisor.place import Place
from trtdisagg.supervisor.plan import Plan
from trtdisagg.supervisor.state import Stop
from trtdisagg.supervisor.wish import Wish

_LISTEN_S = 0.5
"""Between two looks at what children that are ready report."""
_ERRORS: dict[int, type[TrtdisaggError]] = {
    error.exit_code: error for error in (StartupError, NotReadyInTimeError, CrashLoopError)
}


async def run_agent(
    plan: Plan,
    place: Place,
    *,
    wish: Wish | None = None,
    on_status: Callable[[ClusterStatus], None] | None = None,
    on_ready: Callable[[str], None] = lambda _: None,
    on_event: Callable[[str], None] = lambda _: None,
    on_line: Callable[[str, str], None] = lambda _name, _line: None,
    nodes: NodeLinks | None = None,
) -> int:
    """Bring a cluster up and keep it up until it is asked to go down. To be called in the main thread.

    :param wish: the cluster file that the plan was made of; None: there is none, so nothing can be scaled or applied.
    :param on_status: called when something has changed; None: nobody looks, and a status of many servers is much work.
    :param on_ready: called once with the address for clients, when the cluster can serve for the first time.
    :param on_event: called with what happened, in words.
    :param on_line: called with each line that a child prints, and the child's name.
    :param nodes: the other nodes that servers of the plan are on, all gathered; None: there are none.
    :returns: exit code of the command: 0 after `down`, 128+N after signal N (0 under systemd).
    :raises AlreadyRunningError: when an agent of this cluster runs.
    :raises StartupError: when something is missing, or a server ends before it was ready.
    :raises NotReadyInTimeError: when a server is not ready in time.
    :raises CrashLoopError: when a server died too often, and the cluster cannot serve without it.
    """
    run_id = secrets.token_hex(8)
    pace = Pace(_LISTEN_S)
    with contextlib.ExitStack() as stack:
        lock_fd = stack.enter_context(rundir.hold(place, run_id))
        rundir.make_log_dir(place)
        for server in plan.servers:
            if server.spec.port and (nodes is None or server.nodes[:1] in ([], [nodes.here])):
                ports.check_free(server.spec.host, server.spec.port, server.name)
        door = stack.enter_context(Door())
        if plan.proxy:
            assert isinstance(plan.proxy.spec, ProxySpec)
            door.move(plan.proxy.spec)
        secret = nodes.secret if nodes else None
        secret_file = str(rundir.make_secret(place, secret)) if plan.makes_secret else plan.secret_file
        loads = stack.enter_context(LoadTable(place.load_file))
        agent = Agent(
            plan,
            place,
            run_id,
            door,
            loads,
            wish=wish,
            nodes_of=nodes.all_nodes if nodes else lambda _: (),
            has_left=nodes.has_left if nodes else lambda _: False,
            registrar=registrar_for(plan, on_event),
            secret_file=secret_file,
            on_status=on_status,
            on_ready=on_ready,
            on_event=on_event,
        )
        guardian = stack.enter_context(Guardian(run_id, place, lock_fd, agent.handle))
        nursery = Nursery(
            place,
            secret_file,
            guardian,
            door=door,
            loads=loads,
            pace=pace.wait,
            on_event=agent.handle,
            on_line=on_line,
            nodes=nodes,
        )
        if nodes is not None:
            Presence(agent, nodes).watch()
        stop = await agent.run(stack.enter_context(nursery), guardian, pace)
        if nodes is not None:
            nodes.exit_code = stop.exit_code
        return _result(stop)


def _result(stop: Stop) -> int:
    if stop.exit_code in _ERRORS:
        raise _ERRORS[stop.exit_code](stop.reason)
    return stop.exit_code
