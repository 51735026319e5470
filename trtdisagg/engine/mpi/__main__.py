"""`python -m trtdisagg.engine.mpi --spec-fd N`: one process of an MPI world, one rank of a server."""

from __future__ import annotations

import argparse
import logging
import os

import msgspec

from trtdisagg.engine.__main__ import end, run_rank, set_up_log, stay_on
from trtdisagg.engine.mpi.terms import agree
from trtdisagg.engine.mpi.world import World
from trtdisagg.errors import TrtdisaggError
from trtdisagg.protocol.mpi import WorldSpec
from trtdisagg.protocol.parent import end_with_parent

log = logging.getLogger("trtdisagg.engine.mpi")


def main() -> int:
    """Be a rank until asked to end; returns the exit code."""
    parser = argparse.ArgumentParser(description="One process of an MPI world.")
    parser.add_argument("--spec-fd", required=True, type=int, help="a descriptor with a WorldSpec as JSON")
    set_up_log()
    with os.fdopen(parser.parse_args().spec_fd, "rb") as file:
        given = msgspec.json.decode(file.read(), type=WorldSpec)
    end_with_parent(given.engine.parent_pid)
    try:
        world = World.open(sum(server.num_ranks for server in given.servers))
        engine, secret, name = agree(world, given)
    except TrtdisaggError as e:
        log.error("%s", e.message)
        return e.exit_code
    stay_on(engine.cores)
    os.environ["OMP_NUM_THREADS"] = str(engine.num_threads)  # read by libraries that are loaded from here on
    world.carry_kv(name)
    code = run_rank(engine, secret)
    if code == 0:
        world.finish()
    return code


if __name__ == "__main__":
    end(main())
