"""A process manager for one process: what MPICH asks when it starts, answered from within.

An MPI process that nobody started asks nobody, and takes itself for process 0 of the world "0". Two of them cannot
connect, for each finds the other in its own world already ("local and remote groups are not disjoint"). With a manager
of its own, each is process 0 of a world with a name of its own.

PMI-1 is lines of `cmd=NAME key=value ...`, on the descriptor that PMI_FD names. In a world of one only its name is
asked for in earnest; the protocol is described by MPICH's `src/pmi`.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_ANSWERS = {
    "init": "cmd=response_to_init pmi_version=1 pmi_subversion=1 rc=0",
    "get_maxes": "cmd=maxes kvsname_max=256 keylen_max=64 vallen_max=1024",
    "get_appnum": "cmd=appnum appnum=0",
    "get_universe_size": "cmd=universe_size size=1",
    "put": "cmd=put_result rc=0 msg=success",
    "get": "cmd=get_result rc=-1 msg=key_not_found value=unknown",
    "barrier_in": "cmd=barrier_out",
    "finalize": "cmd=finalize_ack",
}


def answer(line: str, world: str) -> str:
    """
    :param line: what is asked, without its end.
    :param world: the name of the world that the process is alone in.
    """
    command = dict(word.partition("=")[::2] for word in line.split()).get("cmd", "")
    if command == "get_my_kvsname":
        return f"cmd=my_kvsname kvsname={world}"
    return _ANSWERS.get(command, f"cmd={command}_result rc=-1 msg=unsupported")


@contextmanager
def managed(world: str) -> Iterator[None]:
    """While this lasts, MPI that starts in this process starts in a world of that name.

    It must start without the GIL: the answers come from a thread, which ends with the process.
    """
    theirs, ours = socket.socketpair()
    environment = {name: value for name, value in os.environ.items() if name.startswith(("PMI_", "PMIX_"))}
    threading.Thread(target=_manage, args=(ours, world), name="mpi-pmi", daemon=True).start()
    for name in environment:
        del os.environ[name]  # of a manager that started us, and would be asked in our place
    os.environ.update(PMI_FD=str(theirs.detach()), PMI_RANK="0", PMI_SIZE="1")
    try:
        yield
    finally:
        for name in ("PMI_FD", "PMI_RANK", "PMI_SIZE"):
            del os.environ[name]  # not for children
        os.environ.update(environment)


def _manage(stream: socket.socket, world: str) -> None:
    with stream, stream.makefile("rw", newline="\n") as lines:
        for line in lines:
            lines.write(answer(line.rstrip("\n"), world) + "\n")
            lines.flush()
