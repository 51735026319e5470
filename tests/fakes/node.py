"""A node agent as a process of its own: `python tests/fakes/node.py NAME DIRECTORY DIGEST ADDRESS [SECRET]`."""

from __future__ import annotations

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import anyio

from trtdisagg.errors import TrtdisaggError
from trtdisagg.supervisor.host import discover
from trtdisagg.supervisor.nodes.agent import run_node_agent
from trtdisagg.supervisor.nodes.head_link import Membership
from trtdisagg.supervisor.place import Place


def main() -> int:
    name, directory, digest, address, *secret = sys.argv[1:]
    membership = Membership(
        node=name,
        host=discover(),
        digest=digest,
        file=f"/{name}/cluster.yaml",
        directory=Path(directory),
        secret=secret[0].encode() if secret else None,
        address=address,
        timeout_s=60,
    )
    say = functools.partial(print, flush=True)
    try:
        return anyio.run(functools.partial(run_node_agent, membership, Place.of(directory + name, name), on_event=say))
    except TrtdisaggError as e:
        say(e.message)
        return e.exit_code


if __name__ == "__main__":
    sys.exit(main())
