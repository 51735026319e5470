"""A rank that reads another's pool by MPI, again and again, until it is killed. The memory comes on stdin."""

from __future__ import annotations

import sys

import msgspec
import numpy as np
from helpers.kv import NUM_BLOCKS, SHAPE

from trtdisagg.cache.pool import KvPool
from trtdisagg.cache.transports import open_transports
from trtdisagg.protocol.memory import MpiMemory


def main() -> None:
    memory = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=MpiMemory)
    with (
        KvPool(SHAPE, NUM_BLOCKS) as pool,
        open_transports(["mpi"], pool, incarnation="reader", one_host=True) as (transport,),
    ):
        link = transport.connect(memory)
        while True:
            link.read(np.array([[0, 0, pool.num_bytes]], np.int64))
            print("read", flush=True)


if __name__ == "__main__":
    main()
