"""The spec file that a process of this node is started with: its plan, and what only this node and this start know."""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from trtdisagg.files import write_whole
from trtdisagg.protocol.proxy_spec import ProxySpec
from trtdisagg.protocol.spec import EngineSpec
from trtdisagg.supervisor.nodes.meeting_point import MeetingPoint
from trtdisagg.supervisor.place import Place


def engine_spec(
    spec: EngineSpec, place: Place, meeting_point: MeetingPoint | None, *, report_fd: int, command_fd: int
) -> tuple[EngineSpec, list[int]]:
    """The spec of a rank with its pipes, and with where the ranks of its server meet.

    :param meeting_point: of a server on several nodes; None: its ranks are all here.
    :returns: the spec, and the descriptors that it inherits beside the pipes.
    :raises OSError: when nobody can listen at the address of rank 0.
    """
    # Rank 0 alone is commanded, and tells the others.
    spec = replace(spec, report_fd=report_fd, command_fd=None if spec.rank else command_fd)
    if spec.parallel.num_ranks == 1:
        return spec, []
    if meeting_point is None:
        return replace(spec, gang_socket=str(place.gang_socket(spec.incarnation))), []
    if spec.rank:
        return replace(spec, gang_address=meeting_point.address), []
    gang_fd = meeting_point.bind(spec.host)
    return replace(spec, gang_fd=gang_fd, gang_address=meeting_point.address), [gang_fd]


def with_spec_file(
    argv: Sequence[str], spec: EngineSpec | ProxySpec, place: Place, name: str, *, secret_file: str | None
) -> list[str]:
    """Write the spec of a process of ours, and make the command line that reads it.

    :param name: of the child.
    """
    spec = replace(spec, secret_file=secret_file, parent_pid=os.getpid())
    rank = spec.rank if isinstance(spec, EngineSpec) else 0
    path = place.spec_file(f"{name}.rank{rank}" if rank else name)
    write_whole(path, msgspec.json.format(msgspec.json.encode(spec)))
    return [*argv, "--spec", str(path)]
